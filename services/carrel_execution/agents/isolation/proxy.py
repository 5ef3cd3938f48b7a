"""Stands in the service's loop for an agent that runs in a process of its own: what that agent asks of its context, it asks here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from carrel.agent import JSON, AgentError, RunPort
from carrel.agent_errors import AgentDied
from carrel_chassis.logs import get_logger
from carrel_execution.agents.isolation.host import AgentProcess, NoProcess, ProcessHost
from carrel_execution.agents.isolation.wire import TooLong, error_in, error_out, packed, received
from carrel_execution.domain import clean

_MOST_CALLS = 1000
"""Of one agent at once; more are refused, so that it cannot fill the memory of the service."""
_LAST_SECONDS = 0.5
_METHODS = frozenset(
    (
        "call_tool",
        "run_agent",
        "call_model",
        "step",
        "wait_for_input",
        "wait_for_approval",
        "now",
        "thinking",
        "progress",
        "partial_result",
        "custom",
        "state.get",
        "state.set",
    )
)


class ProcessAgent:
    """One agent in a process of its own, for one run."""

    def __init__(
        self,
        host: ProcessHost,
        name: str,
        memory_mb: int,
        grace_seconds: float,
        on_process: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`on_process` is told how long it took until the process was there."""
        self._host = host
        self._name = name
        self._memory_mb = memory_mb
        self._grace_seconds = grace_seconds
        self._on_process = on_process

    async def run(self, port: RunPort, input: Mapping[str, JSON]) -> JSON:
        """As the agent's own `run`; raises AgentDied when its process ends before it does.

        When this is cancelled the agent is told so, and its process is killed after the grace.
        """
        begin = time.perf_counter()
        try:
            async with self._host.process() as process:
                self._on_process(time.perf_counter() - begin)
                return await self._work(process, port, input)
        except NoProcess as error:
            raise AgentDied("There is no process to be had for the agent; try again later.") from error

    async def _work(self, process: AgentProcess, port: RunPort, input: Mapping[str, JSON]) -> JSON:
        conversation = _Conversation(process, port)
        try:
            process.bound(self._memory_mb)
            conversation.begin(self._name, self._memory_mb, input)
            end = await conversation.end()
        except asyncio.CancelledError:
            await conversation.cancel(self._grace_seconds)
            raise
        except (TooLong, ValueError) as error:
            raise AgentDied(f"The agent's process said something that it may not: {clean(error, 200)}.") from None
        finally:
            await conversation.close()
        # Its line ends a moment before the process does.
        return self._result(end or {}, await process.ended(0.0 if end else _LAST_SECONDS))

    def _result(self, end: Mapping[str, Any], report: Mapping[str, Any]) -> JSON:
        if "result" in end:
            return end["result"]
        if "error" in end:
            raise error_in(end["error"])
        if "crashed" in end:
            raise _crash(self._name, end)
        raise AgentDied(self._cause(end, report))

    def _cause(self, end: Mapping[str, Any], report: Mapping[str, Any]) -> str:
        if "memory" in end or "memory_mb" in report:
            return f"The agent used more than {self._memory_mb} MB of memory."
        if "died" in end:
            return f"The agent died of {clean(end['died'], 64)}."
        if "unconfined" in end:
            return (
                f"The agent's process could not be confined ({clean(end['unconfined'], 200)}); the operator can help."
            )
        if "processes" in report:
            return f"The agent had more than {report['processes']} processes."
        if "signal" in report:
            return f"The agent's process was killed by {report['signal']}."
        return f"The agent's process ended with code {report.get('code', 0)} before the agent did."


class _Conversation:
    """What is said between one context and the process of its agent. Calls begin in the order in which they were made."""

    def __init__(self, process: AgentProcess, port: RunPort) -> None:
        self._process = process
        self._port = port
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._performing: dict[int, asyncio.Future[JSON]] = {}

    def begin(self, agent: str, memory_mb: int, input: Mapping[str, JSON]) -> None:
        port = self._port
        job = {"agent": agent, "memory_mb": memory_mb, "input": dict(input), "settings": dict(port.settings)}
        place = {"run_id": port.run_id, "thread_id": port.thread_id, "random": port.random.getstate()}
        self._send({**job, **place, "models": list(port.models)})

    async def end(self) -> dict[str, Any] | None:
        """How the agent says that it has ended; None when its process ends without a word."""
        while (message := await received(self._process.reader)) is not None:
            if "end" in message:
                return dict(message["end"])
            if "call" in message:
                await self._begin_call(message)
            elif "drop" in message:
                if (call := self._calls.get(message["drop"])) is not None:
                    call.cancel()
            elif (waiting := self._performing.get(message.get("performed", 0))) is not None and not waiting.done():
                _settle(waiting, message)
        return None

    async def cancel(self, grace_seconds: float) -> None:
        """Tells the agent to stop, and waits for that as long as the grace."""
        self._send({"cancel": True})
        try:
            async with asyncio.timeout(grace_seconds):
                await self.end()
        except (TimeoutError, TooLong, ValueError):
            pass

    async def close(self) -> None:
        """Stops what was begun for the agent."""
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _begin_call(self, message: Mapping[str, Any]) -> None:
        number = message["call"]
        if len(self._calls) >= _MOST_CALLS:
            refusal = AgentError("TOO_MANY_CALLS", f"The agent makes more than {_MOST_CALLS} calls at once.")
            self._send({"answer": number, "error": error_out(refusal)})
        else:
            task = self._calls[number] = asyncio.create_task(self._answer(number, message))
            task.add_done_callback(lambda _: self._calls.pop(number, None))
        await self._process.writer.drain()  # an agent that asks without listening waits here

    async def _answer(self, number: int, message: Mapping[str, Any]) -> None:
        try:
            result = await self._call(message["method"], message["arguments"], message["named"])
            answer: dict[str, Any] = {"result": result}
        except AgentError as error:
            answer = {"error": error_out(error)}
        except asyncio.CancelledError:
            # The call is dropped, or the run is over: the agent stops there, as it would in the loop.
            self._send({"answer": number, "cancelled": True})
            raise
        except Exception as error:
            # Wrong arguments, or a fault of ours: its text may hold what an agent must not see.
            get_logger().warning("agent_process.call_failed", method=message["method"], error=repr(error))
            answer = {"broken": f"{message['method']} failed with {type(error).__name__}"}
        self._send({"answer": number, **answer})

    async def _call(self, method: str, arguments: list[JSON], named: dict[str, JSON]) -> JSON:
        if method not in _METHODS:
            raise AgentError("INVALID_ARGUMENT", "A context has no such method.")
        if method == "step":
            return await self._step(*arguments)
        owner, _, name = method.rpartition(".")
        return await getattr(self._port.state if owner else self._port, name)(*arguments, **named)

    async def _step(self, name: str, function: int, at_most_once: bool) -> JSON:
        return await self._port.step(name, self._performer(function), at_most_once=at_most_once)

    def _performer(self, function: int) -> Callable[[], Awaitable[JSON]]:
        async def perform() -> JSON:
            performed = self._performing[function] = asyncio.get_running_loop().create_future()
            self._send({"perform": function})
            try:
                return await performed
            finally:
                del self._performing[function]

        return perform

    def _send(self, message: dict[str, Any]) -> None:
        if not self._process.writer.is_closing():
            self._process.writer.write(packed(message))


def _settle(waiting: asyncio.Future[JSON], message: Mapping[str, Any]) -> None:
    if "result" in message:
        waiting.set_result(message["result"])
    elif "error" in message:
        waiting.set_exception(error_in(message["error"]))
    else:
        waiting.set_exception(_crash("a step", message))


def _crash(who: str, end: Mapping[str, Any]) -> AgentError:
    get_logger().error("agent.crashed", agent=who, error=end["crashed"], exception=end.get("traceback"))
    name = clean(end["crashed"], 64)
    return AgentError("AGENT_CRASHED", f"The agent crashed with {name}; its author finds more in the log.")
