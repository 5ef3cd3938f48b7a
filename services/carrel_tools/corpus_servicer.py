"""The corpora on the wire: messages in, messages out. It knows no SQL and no rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.tools.v1 import tool_pb2, tool_service_pb2_grpc
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.errors import invalid
from carrel_chassis.rpc.call import caller, current_call
from carrel_tools import domain
from carrel_tools.corpora import CorpusOperations
from carrel_tools.uploads import MAX_CHUNK_BYTES, Announced


class CorpusServicer(tool_service_pb2_grpc.CorpusServiceServicer):
    """carrel.api.tools.v1.CorpusService."""

    def __init__(self, operations: CorpusOperations) -> None:
        self._operations = operations

    async def UploadCorpus(
        self, request_iterator: AsyncIterator[pb.UploadCorpusRequest], context: Any
    ) -> pb.UploadCorpusResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise invalid("header", "The first message of an upload must be its header.", "MALFORMED_REQUEST")
        header = first.header
        announced = Announced(header.name, header.media_type, header.upload_id, header.offset, header.sha256)
        corpus = await self._operations.upload(caller(), current_call().call_id, announced, _chunks(request_iterator))
        return pb.UploadCorpusResponse(corpus=_corpus(corpus))

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        received = await self._operations.received_bytes(caller(), current_call().call_id, request.upload_id)
        return pb.GetUploadResponse(received_bytes=received)

    async def DownloadCorpus(
        self, request: pb.DownloadCorpusRequest, context: Any
    ) -> AsyncIterator[pb.DownloadCorpusResponse]:
        user, call_id = caller(), current_call().call_id
        corpus = await self._operations.get_content(user, call_id, request.name, request.corpus_id, request.offset)
        await context.write(pb.DownloadCorpusResponse(corpus=_corpus(corpus)))
        async with aclosing(self._operations.read(user, call_id, corpus, request.offset)) as pieces:
            async for piece in pieces:
                for begin in range(0, len(piece), MAX_CHUNK_BYTES):
                    await context.write(pb.DownloadCorpusResponse(chunk=piece[begin : begin + MAX_CHUNK_BYTES]))
        return
        yield  # A generator by form alone, as all streams here: what it would yield, it has written.

    async def EraseCorpora(self, request: pb.EraseCorporaRequest, context: Any) -> pb.EraseCorporaResponse:
        count = await self._operations.erase(caller(), current_call().call_id)
        return pb.EraseCorporaResponse(erased_corpora=count)

    async def GetCorpus(self, request: pb.GetCorpusRequest, context: Any) -> pb.GetCorpusResponse:
        corpus = await self._operations.get(caller(), current_call().call_id, request.name)
        return pb.GetCorpusResponse(corpus=_corpus(corpus))

    async def ListCorpora(self, request: pb.ListCorporaRequest, context: Any) -> pb.ListCorporaResponse:
        corpora, next_page_token = await self._operations.list_page(
            caller(), current_call().call_id, request.page_size, request.page_token
        )
        return pb.ListCorporaResponse(corpora=[_corpus(corpus) for corpus in corpora], next_page_token=next_page_token)

    async def DeleteCorpus(self, request: pb.DeleteCorpusRequest, context: Any) -> pb.DeleteCorpusResponse:
        await self._operations.delete(caller(), current_call().call_id, request.name)
        return pb.DeleteCorpusResponse()


async def _chunks(requests: AsyncIterator[pb.UploadCorpusRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise invalid(
                "chunk", "After the header of an upload come its chunks and nothing else.", "MALFORMED_REQUEST"
            )
        yield request.chunk


def _corpus(corpus: domain.Corpus) -> tool_pb2.Corpus:
    return tool_pb2.Corpus(
        corpus_id=corpus.corpus_id,
        name=corpus.name,
        media_type=corpus.media_type,
        size_bytes=corpus.size_bytes,
        sha256=corpus.sha256,
        create_time=_timestamp(corpus.create_time),
        columns=corpus.columns,
        column_types=corpus.types,
    )


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
