"""Corpora: the user's own files."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import islice
from pathlib import Path

import grpc

from carrel._calls import delays
from carrel._client.base import Calls, listed
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.tools.v1.tool_pb2 import Corpus
from carrel.errors import Conflict, NotFound, Unavailable, client_error
from carrel.uploads import send_all

CHUNK_BYTES = 256 * 1024
UPLOAD_SECONDS = 600.0
MEDIA_TYPES = {
    ".csv": "text/csv",
    ".parquet": "application/vnd.apache.parquet",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
    ".txt": "text/plain",
    ".md": "text/markdown",
}
_ATTEMPTS = 5


class CorpusCalls(Calls):
    """The user's files."""

    async def upload_corpus(self, name: str, source: Path | str | bytes, media_type: str = "") -> Corpus:
        """Stores a file, given by its path or as bytes, under a name; other content under the same name is replaced.

        `media_type` is that of the path's suffix (.csv, .parquet, .jsonl, .txt, .md) unless said, and CSV for bytes. An upload that
        breaks off goes on where it was, a few times. Raises OSError when the file cannot be read, ValueError for an unknown suffix.
        """
        upload_id = f"upload-{uuid.uuid4()}"
        kind = media_type or ("text/csv" if isinstance(source, bytes) else media_type_of(Path(source)))
        header = pb.UploadHeader(name=name, media_type=kind, upload_id=upload_id)
        for wait in islice(delays(), _ATTEMPTS - 1):
            try:
                return await self._upload(header, source)
            except (Unavailable, Conflict) as error:
                # Conflict for the same reason: the server has not noticed yet that the line before has broken.
                if error.reason not in ("", "UNAVAILABLE"):
                    raise
            await asyncio.sleep(wait)
            header.offset = await self._received(upload_id)
        return await self._upload(header, source)

    async def _received(self, upload_id: str) -> int:
        """How many bytes of an upload that broke off are there; none of one that nobody knows."""
        try:
            answer = await self._caller.repeat(self._stub.GetUpload, pb.GetUploadRequest(upload_id=upload_id))
        except NotFound:
            return 0
        return answer.received_bytes

    async def _upload(self, header: pb.UploadHeader, source: Path | str | bytes) -> Corpus:
        chunks = (
            _chunks_of_bytes(source, header.offset)
            if isinstance(source, bytes)
            else _chunks_of_file(Path(source), header.offset)
        )
        first = await asyncio.to_thread(next, chunks, b"")  # a file that cannot be read fails before the call begins
        call = self._stub.UploadCorpus(metadata=self._caller.metadata, timeout=UPLOAD_SECONDS)
        try:
            await send_all(call, _parts(header, first, chunks))
            return (await call).corpus
        except grpc.aio.AioRpcError as error:
            raise client_error(error) from None
        finally:
            call.cancel()

    async def download_corpus(self, name: str, target: Path | str) -> Corpus:
        """Writes the bytes of a corpus to a file; goes on where it was when the line breaks, and checks the SHA-256 at the end.

        Raises OSError when the file cannot be written, ValueError when what came is not what was stored.
        """
        partial, digest, corpus = Path(f"{target}.partial"), hashlib.sha256(), Corpus()
        file = await asyncio.to_thread(partial.open, "wb")
        try:
            async with aclosing(self._chunks(name)) as parts:
                async for found, chunk in parts:
                    corpus = found
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
        finally:
            await asyncio.to_thread(file.close)
        if digest.hexdigest() != corpus.sha256:
            raise ValueError(f"what came of {name} is not what was stored: its SHA-256 is another")
        await asyncio.to_thread(partial.replace, target)
        return corpus

    async def read_corpus(self, name: str) -> bytes:
        """The bytes of a corpus, in memory."""
        async with aclosing(self._chunks(name)) as parts:
            return b"".join([chunk async for _, chunk in parts])

    async def _chunks(self, name: str) -> AsyncGenerator[tuple[Corpus, bytes], None]:
        """The corpus with each of its chunks, at least one, over as many calls as it takes."""
        request = pb.DownloadCorpusRequest(name=name)
        waits, attempts_left = delays(), _ATTEMPTS
        corpus = Corpus()
        while True:
            call = self._stub.DownloadCorpus(request, metadata=self._caller.metadata, timeout=UPLOAD_SECONDS)
            try:
                async for message in call:
                    if message.HasField("corpus"):
                        corpus = message.corpus
                        request.corpus_id = corpus.corpus_id
                        yield corpus, b""
                    else:
                        request.offset += len(message.chunk)
                        attempts_left = _ATTEMPTS
                        yield corpus, message.chunk
                return
            except grpc.aio.AioRpcError as error:
                attempts_left -= 1
                failed = client_error(error)
                if not isinstance(failed, Unavailable) or not attempts_left:
                    raise failed from None
            finally:
                call.cancel()
            await asyncio.sleep(next(waits))

    async def erase_corpora(self) -> int:
        """Erases all corpora of the user and the key that they are encrypted under; how many there were. It cannot be undone."""
        answer = await self._caller.once(self._stub.EraseCorpora, pb.EraseCorporaRequest())
        return answer.erased_corpora

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


def media_type_of(path: Path) -> str:
    """The media type of a file by its suffix; ValueError for one that is no corpus."""
    try:
        return MEDIA_TYPES[path.suffix.lower()]
    except KeyError:
        known = ", ".join(MEDIA_TYPES)
        raise ValueError(f"{path.name} ends in none of {known}; say its media type") from None


async def _parts(header: pb.UploadHeader, chunk: bytes, rest: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The messages of an upload; the disk is read beside the loop."""
    yield pb.UploadCorpusRequest(header=header).SerializeToString()
    while chunk:
        yield pb.UploadCorpusRequest(chunk=chunk).SerializeToString()
        chunk = await asyncio.to_thread(next, rest, b"")


def _chunks_of_bytes(content: bytes, offset: int) -> Iterator[bytes]:
    for begin in range(offset, len(content), CHUNK_BYTES):
        yield content[begin : begin + CHUNK_BYTES]


def _chunks_of_file(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
