"""Tools as the user's agents see them, and what was called and decided."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

from carrel._client.base import Calls, duration, listed
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.tools.v1.policy_service_pb2 import ToolDecision
from carrel.api.tools.v1.tool_pb2 import Tool, ToolCall


class ToolCalls(Calls):
    """The user's tools."""

    async def list_tools(self) -> list[Tool]:
        """The tools that the user's agents may use now, by name."""
        return list((await self._caller.repeat(self._stub.ListTools, pb.ListToolsRequest())).tools)

    async def get_tool(self, name: str) -> Tool:
        """A tool with the schema of its arguments; NotFound when it is absent or not permitted."""
        return (await self._caller.repeat(self._stub.GetTool, pb.GetToolRequest(tool=name))).tool

    async def cancel_tool(self, tool_call_id: str, wait: timedelta = timedelta(seconds=2)) -> pb.CancelToolResponse:
        """Stops one call of a tool, named as the events of its run name it, and waits for that, at most 30 s; its run goes on. The answer
        says whether it was stopped or had ended, or is not known to have stopped; NotFound when there is no such call."""
        request = pb.CancelToolRequest(tool_call_id=tool_call_id, wait=duration(wait))
        return await self._caller.once(self._stub.CancelTool, request, wait.total_seconds() + 10.0)

    def list_tool_calls(self, run_id: str = "", *, page_size: int = 0) -> AsyncGenerator[ToolCall, None]:
        """The user's tool calls, newest first, of one run or of all; pages are fetched as they are needed."""
        request = pb.ListToolCallsRequest(run_id=run_id, page_size=page_size)
        return listed(self._caller, self._stub.ListToolCalls, request, "tool_calls")

    def list_tool_decisions(self, *, page_size: int = 0) -> AsyncGenerator[ToolDecision, None]:
        """What was decided on the user's tool calls, newest first, each with the rule that decided."""
        request = pb.ListToolDecisionsRequest(page_size=page_size)
        return listed(self._caller, self._stub.ListToolDecisions, request, "decisions")
