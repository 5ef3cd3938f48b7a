"""The agent's side of its line to the service: runs the agent, and sends what it asks of its context to the context in the service."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import traceback
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

from carrel.agent import JSON, Agent, AgentError, RunContext, RunPort, ThreadState, ToolError
from carrel_execution.agents.isolation.bounds import bound_memory, memory_now
from carrel_execution.agents.isolation.wire import MOST_BYTES, error_in, error_out, packed, received
from carrel_execution.domain import State, clean, succeeded

_MOST_FROM_SERVICE = 64 * 1024 * 1024
_MOST_TRACEBACK = 8000

End = dict[str, Any]
"""How the agent has ended: {"result"}, {"error"}, {"crashed", "traceback"}, {"memory"}, {"died"} or {"unconfined"}."""


def work_for(classes: Mapping[str, type[Agent]], line: socket.socket, confine: Callable[[], None]) -> None:
    """Runs the agent that the first message names, to its end, and ends the process."""
    last_words, memory_kb = line.dup(), memory_now()
    try:
        confine()
    except OSError as error:
        last_words.sendall(packed({"end": {"unconfined": clean(error, 200)}}))
        return
    loop = asyncio.new_event_loop()  # not `asyncio.run`: that would wait for what the agent has left running
    try:
        loop.run_until_complete(_work(classes, line, memory_kb))
    except MemoryError:
        last_words.sendall(packed({"end": {"memory": True}}))
    except BaseException as error:  # of the agent, or of a task that it has made
        last_words.sendall(packed({"end": {"died": type(error).__name__}}))


async def _work(classes: Mapping[str, type[Agent]], sock: socket.socket, memory_kb: Mapping[str, int]) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    job = await received(reader, _MOST_FROM_SERVICE)
    if job is None:
        return
    bound_memory(job["memory_mb"], memory_kb)
    line = Line(writer)
    agent = asyncio.create_task(_performed(classes[job["agent"]], RemotePort(line, job), job["input"]))
    listener = asyncio.create_task(line.listen(reader, agent))
    writer.transport.set_write_buffer_limits(0)  # or `drain` returns before all is on its way
    writer.write(packed({"end": await agent}))
    await writer.drain()
    listener.cancel()
    os._exit(0)  # what the agent has left running ends here


async def _performed(agent_class: type[Agent], port: RunPort, input: dict[str, JSON]) -> End:
    try:
        agent = agent_class()
        try:
            result = await agent.perform(RunContext(port), input)
        finally:
            await agent.close()
        outcome = succeeded(result)
        if outcome.state is State.SUCCEEDED:
            return {"result": result}
        return {"error": error_out(AgentError(outcome.reason, outcome.message))}
    except AgentError as error:
        return {"error": error_out(error)}
    except asyncio.CancelledError:
        return {"crashed": "CancelledError", "traceback": ""}
    except MemoryError:
        return {"memory": True}
    except Exception as error:
        text = clean("".join(traceback.format_exception(error)), _MOST_TRACEBACK)
        return {"crashed": type(error).__name__, "traceback": text}


class Line:
    """Questions to the service and their answers; many at once."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[JSON]] = {}
        self._functions: dict[int, Callable[[], Awaitable[JSON]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, method: str, /, *arguments: JSON, **named: JSON) -> JSON:
        """What the method of the context in the service returns; raises the AgentError that it raises."""
        number = next(self._numbers)
        self._send({"call": number, "method": method, "arguments": arguments, "named": named})
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.done() or answer.cancelled():
                self._send({"drop": number})
            raise
        finally:
            del self._answers[number]

    async def ask_step(self, name: str, function: Callable[[], Awaitable[JSON]], at_most_once: bool) -> JSON:
        """As `ask("step", ...)`; the service asks back when the function is to be called."""
        number = next(self._numbers)
        self._functions[number] = function
        try:
            return await self.ask("step", name, number, at_most_once)
        finally:
            del self._functions[number]

    async def listen(self, reader: asyncio.StreamReader, agent: asyncio.Task[End]) -> None:
        """Hands on what the service says, until the line ends; then nobody needs this process."""
        while (message := await received(reader, _MOST_FROM_SERVICE)) is not None:
            if "cancel" in message:
                agent.cancel()
            elif "perform" in message:
                task = asyncio.create_task(self._perform(message["perform"]))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            elif (waiting := self._answers.get(message["answer"])) is not None and not waiting.done():
                _settle(waiting, message)
        os._exit(1)

    async def _perform(self, number: int) -> None:
        try:
            answer: dict[str, Any] = {"result": await self._functions[number]()}
        except AgentError as error:
            answer = {"error": error_out(error)}
        except Exception as error:
            text = clean("".join(traceback.format_exception(error)), _MOST_TRACEBACK)
            answer = {"crashed": type(error).__name__, "traceback": text}
        try:
            self._send({"performed": number, **answer})
        except AgentError as error:
            self._send({"performed": number, "error": error_out(error)})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            raw = packed(message)
        except ValueError as error:
            kind = ToolError if message.get("method") == "call_tool" else AgentError
            raise kind("INVALID_ARGUMENT", f"What the agent hands over is no JSON: {clean(error, 200)}.") from None
        if len(raw) > MOST_BYTES:
            raise AgentError("TOO_LARGE", f"The agent hands over {len(raw)} bytes at once; it may be {MOST_BYTES}.")
        self._writer.write(raw)


def _settle(waiting: asyncio.Future[JSON], message: dict[str, Any]) -> None:
    if "result" in message:
        waiting.set_result(message["result"])
    elif "error" in message:
        waiting.set_exception(error_in(message["error"]))
    elif "broken" in message:
        waiting.set_exception(RuntimeError(message["broken"]))
    else:
        waiting.cancel()


class RemotePort(RunPort):
    """What the agent's context stands on: each call goes to the port in the service. Chance alone is here, the same numbers as there."""

    def __init__(self, line: Line, job: dict[str, Any]) -> None:
        self.run_id, self.thread_id, self.agent = job["run_id"], job["thread_id"], job["agent"]
        self.settings, self.models = job["settings"], tuple(job["models"])
        self.random = Random()
        version, state, gauss = job["random"]
        self.random.setstate((version, tuple(state), gauss))
        self.state = _RemoteState(line)
        self._line = line

    async def call_tool(self, tool: str, /, **arguments: JSON) -> JSON:
        return await self._line.ask("call_tool", tool, **arguments)

    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        return await self._line.ask("run_agent", agent, dict(input))

    async def call_model(self, model: str, request: Mapping[str, JSON], quiet: bool = False) -> JSON:
        return await self._line.ask("call_model", model, dict(request), quiet)

    async def step(self, name: str, function: Callable[[], Awaitable[JSON]], *, at_most_once: bool = False) -> JSON:
        return await self._line.ask_step(name, function, at_most_once)

    async def wait_for_input(
        self, prompt: str, schema: Mapping[str, JSON] | None = None, timeout: float | None = None
    ) -> JSON:
        return await self._line.ask("wait_for_input", prompt, None if schema is None else dict(schema), timeout)

    async def wait_for_approval(self, prompt: str, timeout: float | None = None) -> bool:
        return bool(await self._line.ask("wait_for_approval", prompt, timeout))

    async def now(self) -> float:
        return float(await self._line.ask("now"))

    async def thinking(self, text: str) -> None:
        await self._line.ask("thinking", text)

    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        await self._line.ask("progress", message, done, total)

    async def partial_result(self, message_id: str, delta: str = "", text: str = "") -> None:
        await self._line.ask("partial_result", message_id, delta, text)

    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        await self._line.ask("custom", name, dict(data))


class _RemoteState(ThreadState):
    def __init__(self, line: Line) -> None:
        self._line = line

    async def get(self) -> JSON:
        return await self._line.ask("state.get")

    async def set(self, value: JSON) -> None:
        await self._line.ask("state.set", value)
