"""The services on the wire: messages in, messages out. It knows no SQL and no rule."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.tools.v1 import tool_pb2, tool_service_pb2_grpc
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.rpc.call import caller, current_call
from carrel_tools import domain
from carrel_tools.admission import Asked, OnProgress
from carrel_tools.cancelling import DEFAULT_WAIT_SECONDS, Cancelling
from carrel_tools.consent import Approval
from carrel_tools.domain import Progress
from carrel_tools.tool import Tool
from carrel_tools.tool_calls import ToolCallOperations

_MOST_UNREAD = 100
"""Of what a tool tells faster than it is read, as much is kept."""


class ToolServicer(tool_service_pb2_grpc.ToolServiceServicer):
    """carrel.api.tools.v1.ToolService."""

    def __init__(self, operations: ToolCallOperations, cancelling: Cancelling) -> None:
        self._operations = operations
        self._cancelling = cancelling

    async def ListTools(self, request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        tools = await self._operations.list_tools(caller())
        return pb.ListToolsResponse(tools=[_tool(tool) for tool in tools])

    async def GetTool(self, request: pb.GetToolRequest, context: Any) -> pb.GetToolResponse:
        return pb.GetToolResponse(tool=_tool(await self._operations.get_tool(caller(), request.tool)))

    async def ExecuteTool(self, request: pb.ExecuteToolRequest, context: Any) -> pb.ExecuteToolResponse:
        return await self._execute(request, None)

    async def ExecuteToolStream(
        self, request: pb.ExecuteToolStreamRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteToolStreamResponse]:
        told: deque[Progress] = deque(maxlen=_MOST_UNREAD)
        more = asyncio.Event()

        def tell(progress: Progress) -> None:
            told.append(progress)
            more.set()

        task = asyncio.create_task(self._execute(request.call, tell))
        task.add_done_callback(lambda _: more.set())
        try:
            while not task.done() or told:
                await more.wait()
                more.clear()
                while told:
                    yield pb.ExecuteToolStreamResponse(progress=_progress(told.popleft()))
            yield pb.ExecuteToolStreamResponse(result=await task)
        finally:
            task.cancel()  # nothing, when it is done
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen: who has left is told nothing

    async def _execute(self, request: pb.ExecuteToolRequest, on_progress: OnProgress | None) -> pb.ExecuteToolResponse:
        call = current_call()
        asked = Asked(request.step_id, request.tool, request.arguments_json, _approval(request))
        executed = await self._operations.execute(caller(), call.call_id, call.remaining_seconds(), asked, on_progress)
        return pb.ExecuteToolResponse(
            tool_call_id=executed.tool_call_id, result_json=executed.result_json, replayed=executed.replayed
        )

    async def CancelTool(self, request: pb.CancelToolRequest, context: Any) -> pb.CancelToolResponse:
        seconds = request.wait.ToTimedelta().total_seconds() if request.HasField("wait") else DEFAULT_WAIT_SECONDS
        cancelled = await self._cancelling.cancel(caller(), current_call().call_id, request.tool_call_id, seconds)
        return pb.CancelToolResponse(
            cancellation=tool_pb2.ToolCancellation.Value(f"TOOL_CANCELLATION_{cancelled.cancellation.name}"),
            tool_call=None if cancelled.tool_call is None else _tool_call(cancelled.tool_call),
        )

    async def ListToolCalls(self, request: pb.ListToolCallsRequest, context: Any) -> pb.ListToolCallsResponse:
        calls, next_page_token = await self._operations.list_calls(
            caller(), current_call().call_id, request.run_id, request.page_size, request.page_token
        )
        return pb.ListToolCallsResponse(
            tool_calls=[_tool_call(call) for call in calls], next_page_token=next_page_token
        )


def _progress(progress: Progress) -> pb.ToolProgress:
    return pb.ToolProgress(message=progress.message, done=progress.done, total=progress.total)


def _approval(request: pb.ExecuteToolRequest) -> Approval | None:
    if not request.HasField("approval"):
        return None
    given = request.approval
    return Approval(
        given.approval_id,
        given.arguments_digest,
        given.user_id,
        given.approve_time.ToMicroseconds() / 1e6,
        given.expire_time.ToMicroseconds() / 1e6,
    )


def _tool(tool: Tool) -> tool_pb2.Tool:
    return tool_pb2.Tool(
        name=tool.name,
        description=tool.description,
        arguments_schema_json=json.dumps(tool.arguments_schema),
        tells_progress=tool.tells_progress,
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


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
