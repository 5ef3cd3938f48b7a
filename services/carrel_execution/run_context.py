"""What an agent holds of its run: every step has its place in the run, and its events and tool calls are named by that place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol

from carrel.agent import JSON, Agent, AgentError, RunContext, ToolError
from carrel.api.events.v1 import event_pb2 as pb
from carrel_execution import events
from carrel_execution.domain import clean, from_json, to_json
from carrel_execution.factory import InstanceFactory

_MAX_TEXT = 8000
_MAX_CUSTOM = 64 * 1024
_MAX_DEPTH = 8
_MAX_NAME = 128


class World(Protocol):
    """The attempt of the run, as its contexts see it: the way to the tools and to the user."""

    run_id: str
    thread_id: str
    factory: InstanceFactory
    over: bool
    """The attempt has ended, or is being stopped: nothing that its agents do may reach the world any more."""

    def agent_settings(self) -> Mapping[str, JSON]:
        """What the operator has set for agents; a copy."""

    def now(self) -> float:
        """Seconds since the epoch."""

    async def call_tool(self, step_id: str, tool: str, arguments_json: str) -> str:
        """The JSON result of a tool; raises ToolError."""

    async def emit(self, event: pb.Event) -> None:
        """Sends an event to the user."""


class LiveContext(RunContext):
    """The context of one agent within an attempt. `path` is its place: "" for the agent of the run, "2" for what its second step
    called. Steps and messages are counted apart, so that a message more or less moves no step."""

    def __init__(self, world: World, agent: str, path: str = "") -> None:
        self.run_id, self.thread_id, self.agent = world.run_id, world.thread_id, agent
        self.settings = world.agent_settings()
        self._world = world
        self._path = path
        self._steps = 0
        self._messages = 0

    async def call_tool(self, tool: str, **arguments: JSON) -> JSON:
        await self._check_open()
        step = self._next_step()
        try:
            arguments_json = to_json(arguments)
        except ValueError as error:
            raise ToolError("INVALID_ARGUMENT", f"The arguments of {tool} are no JSON: {clean(error, 200)}.") from None
        tool_call_id, name = f"{self.run_id}.{step}", clean(tool, _MAX_NAME)
        await self._emit(f"{step}.executing", events.tool_executing(tool_call_id, name, arguments_json))
        begin = time.perf_counter()
        done = pb.ToolCompleted(tool_call_id=tool_call_id, tool=name, succeeded=True)
        try:
            return from_json(await self._world.call_tool(step, tool, arguments_json))
        except ToolError as error:
            done.succeeded, done.error_message = False, clean(error.message, _MAX_TEXT)
            raise
        finally:
            if not self._world.over:
                done.duration_ms = int((time.perf_counter() - begin) * 1e3)
                await self._emit(f"{step}.completed", done)

    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        await self._check_open()
        step = self._next_step()
        if step.count(".") >= _MAX_DEPTH:
            raise AgentError("TOO_DEEP", f"Agents may call agents {_MAX_DEPTH} deep; do the work of {agent} here.")
        try:
            handed_on = from_json(to_json(dict(input)))
        except ValueError as error:
            raise AgentError("INVALID_INPUT", f"The input of {agent} is no JSON: {clean(error, 200)}.") from None
        with self._world.factory.instance(agent) as instance:
            return await self._run_below(instance, LiveContext(self._world, agent, step), handed_on)

    async def _run_below(self, instance: Agent, context: LiveContext, input: Mapping[str, JSON]) -> JSON:
        """Runs a sub-agent; its begin and its end are told, and neither is the end of the run."""
        step, name = context._path, context.agent
        await self._emit(f"{step}.started", pb.AgentStarted(parent_agent=self.agent), agent=name)
        try:
            result = from_json(to_json(await instance.run(context, input)))
        except AgentError as error:
            failure = pb.AgentFailed(reason=clean(error.reason, 64), message=clean(error.message, _MAX_TEXT))
            await self._emit(f"{step}.failed", failure, agent=name)
            raise
        except Exception as error:
            failure = pb.AgentFailed(reason="AGENT_CRASHED", message=type(error).__name__)
            await self._emit(f"{step}.failed", failure, agent=name)
            raise
        await self._emit(f"{step}.ended", pb.AgentCompleted(), agent=name)
        return result

    async def thinking(self, text: str) -> None:
        await self._say(pb.AgentThinking(text=clean(text, _MAX_TEXT)))

    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        await self._say(events.progress(clean(message, _MAX_TEXT), done, total))

    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        try:
            data_json = to_json(dict(data))
        except ValueError as error:
            raise AgentError("INVALID_EVENT", f"The event {name} is no JSON: {clean(error, 200)}.") from None
        if (size := len(data_json.encode())) > _MAX_CUSTOM:
            raise AgentError("TOO_LARGE", f"The event {name} has {size} bytes; it may have {_MAX_CUSTOM}.")
        await self._say(pb.Custom(name=clean(name, _MAX_NAME), data_json=data_json))

    async def _say(self, payload: Any) -> None:
        await self._check_open()
        self._messages += 1
        prefix = f"{self._path}." if self._path else ""
        await self._emit(f"{prefix}m{self._messages}", payload)

    async def _emit(self, place: str, payload: Any, *, agent: str = "") -> None:
        type = TYPES[payload.__class__]
        await self._world.emit(
            events.event(f"{self.run_id}.{place}", type, agent or self.agent, self._world.now(), payload)
        )

    def _next_step(self) -> str:
        self._steps += 1
        return f"{self._path}.{self._steps}" if self._path else str(self._steps)

    async def _check_open(self) -> None:
        """Keeps an agent that does not stop when it is told to from doing anything more."""
        if self._world.over:
            await asyncio.sleep(0.05)  # an agent that tries again and again must not take the loop from the others
            raise asyncio.CancelledError("the run is over")


TYPES: Mapping[type, str] = {
    pb.AgentStarted: "agent_started",
    pb.AgentThinking: "agent_thinking",
    pb.ToolExecuting: "tool_executing",
    pb.ToolCompleted: "tool_completed",
    pb.AgentCompleted: "agent_completed",
    pb.AgentFailed: "agent_failed",
    pb.ProgressUpdate: "progress_update",
    pb.Custom: "custom",
}
"""The type of an event by its payload."""
