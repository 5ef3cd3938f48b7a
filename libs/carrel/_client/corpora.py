"""Corpora: the user's own files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import grpc

from carrel._client.base import Calls, listed
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.tools.v1.tool_pb2 import Corpus
from carrel.errors import client_error
from carrel.uploads import send_all

CHUNK_BYTES = 256 * 1024
UPLOAD_SECONDS = 600.0


class CorpusCalls(Calls):
    """The user's files."""

    async def upload_corpus(self, name: str, source: Path | str | bytes, media_type: str = "text/csv") -> Corpus:
        """Stores a file, given by its path or as bytes, under a name; other content under the same name is replaced.

        Raises OSError when the file cannot be read.
        """
        chunks = _chunks_of_bytes(source) if isinstance(source, bytes) else _chunks_of_file(Path(source))
        first = await asyncio.to_thread(next, chunks, b"")  # a file that cannot be read fails before the call begins
        call = self._stub.UploadCorpus(metadata=self._caller.metadata, timeout=UPLOAD_SECONDS)
        try:
            await send_all(call, _parts(pb.UploadHeader(name=name, media_type=media_type), first, chunks))
            return (await call).corpus
        except grpc.aio.AioRpcError as error:
            raise client_error(error) from None
        finally:
            call.cancel()

    async def get_corpus(self, name: str) -> Corpus:
        """What is known of a corpus; NotFound when it is absent or another user's."""
        return (await self._caller.repeat(self._stub.GetCorpus, pb.GetCorpusRequest(name=name))).corpus

    def list_corpora(self, *, page_size: int = 0) -> AsyncGenerator[Corpus, None]:
        """The user's corpora by name; pages are fetched as they are needed."""
        request = pb.ListCorporaRequest(page_size=page_size)
        return listed(self._caller, self._stub.ListCorpora, request, "corpora")

    async def delete_corpus(self, name: str) -> None:
        """Deletes a corpus and its bytes; NotFound when it is absent or another user's."""
        await self._caller.once(self._stub.DeleteCorpus, pb.DeleteCorpusRequest(name=name))


async def _parts(header: pb.UploadHeader, chunk: bytes, rest: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The messages of an upload; the disk is read beside the loop."""
    yield pb.UploadCorpusRequest(header=header).SerializeToString()
    while chunk:
        yield pb.UploadCorpusRequest(chunk=chunk).SerializeToString()
        chunk = await asyncio.to_thread(next, rest, b"")


def _chunks_of_bytes(content: bytes) -> Iterator[bytes]:
    for begin in range(0, len(content), CHUNK_BYTES):
        yield content[begin : begin + CHUNK_BYTES]


def _chunks_of_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
