"""The services on the wire: messages in, messages out. It knows no SQL and no rule."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.tools.v1 import tool_pb2, tool_service_pb2_grpc
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.rpc.call import caller, current_call
from carrel_tools import domain
from carrel_tools.admission import Asked
from carrel_tools.consent import Approval
from carrel_tools.tool import Tool
from carrel_tools.tool_calls import ToolCallOperations


class ToolServicer(tool_service_pb2_grpc.ToolServiceServicer):
    """carrel.api.tools.v1.ToolService."""

    def __init__(self, operations: ToolCallOperations) -> None:
        self._operations = operations

    async def ListTools(self, request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        tools = await self._operations.list_tools(caller())
        return pb.ListToolsResponse(tools=[_tool(tool) for tool in tools])

    async def GetTool(self, request: pb.GetToolRequest, context: Any) -> pb.GetToolResponse:
        return pb.GetToolResponse(tool=_tool(await self._operations.get_tool(caller(), request.tool)))

    async def ExecuteTool(self, request: pb.ExecuteToolRequest, context: Any) -> pb.ExecuteToolResponse:
        call = current_call()
        asked = Asked(request.step_id, request.tool, request.arguments_json, _approval(request))
        executed = await self._operations.execute(caller(), call.call_id, call.remaining_seconds(), asked)
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


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
