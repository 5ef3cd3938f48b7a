"""The services on the wire: messages in, messages out. It knows no SQL and no rule."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.tools.v1 import tool_pb2, tool_service_pb2_grpc
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.errors import invalid
from carrel_chassis.rpc.call import caller, current_call
from carrel_tools import domain
from carrel_tools.corpora import CorpusOperations
from carrel_tools.tool import Tool
from carrel_tools.tool_calls import ToolCallOperations


class ToolServicer(tool_service_pb2_grpc.ToolServiceServicer):
    """carrel.api.tools.v1.ToolService."""

    def __init__(self, operations: ToolCallOperations) -> None:
        self._operations = operations

    async def ListTools(self, request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        tools = self._operations.list_tools(caller())
        return pb.ListToolsResponse(tools=[_tool(tool) for tool in tools])

    async def ExecuteTool(self, request: pb.ExecuteToolRequest, context: Any) -> pb.ExecuteToolResponse:
        call = current_call()
        executed = await self._operations.execute(
            caller(), call.call_id, call.remaining_seconds(), request.step_id, request.tool, request.arguments_json
        )
        return pb.ExecuteToolResponse(
            tool_call_id=executed.tool_call_id, result_json=executed.result_json, replayed=executed.replayed
        )

    async def ListToolCalls(self, request: pb.ListToolCallsRequest, context: Any) -> pb.ListToolCallsResponse:
        calls, next_page_token = await self._operations.list_calls(
            caller(), current_call().call_id, request.run_id, request.page_size, request.page_token
        )
        return pb.ListToolCallsResponse(
            tool_calls=[_tool_call(call) for call in calls], next_page_token=next_page_token
        )


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
        corpus = await self._operations.upload(
            caller(), current_call().call_id, header.name, header.media_type, _chunks(request_iterator)
        )
        return pb.UploadCorpusResponse(corpus=_corpus(corpus))

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


def _tool(tool: Tool) -> tool_pb2.Tool:
    return tool_pb2.Tool(
        name=tool.name, description=tool.description, arguments_schema_json=json.dumps(tool.arguments_schema)
    )


def _tool_call(call: domain.ToolCall) -> tool_pb2.ToolCall:
    message = tool_pb2.ToolCall(
        tool_call_id=call.tool_call_id,
        run_id=call.run_id,
        step_id=call.step_id,
        tool=call.tool,
        outcome=tool_pb2.ToolOutcome.Value(f"TOOL_OUTCOME_{call.outcome.value}"),
        error_message=call.error_message,
        create_time=_timestamp(call.create_time),
    )
    if call.finish_time is not None:
        message.finish_time.CopyFrom(_timestamp(call.finish_time))
    return message


def _corpus(corpus: domain.Corpus) -> tool_pb2.Corpus:
    return tool_pb2.Corpus(
        corpus_id=corpus.corpus_id,
        name=corpus.name,
        media_type=corpus.media_type,
        size_bytes=corpus.size_bytes,
        sha256=corpus.sha256,
        create_time=_timestamp(corpus.create_time),
    )


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
