"""An agent in the service's own loop, beside those of other users: what it starts ends with it, and what it does to the loop is caught."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from types import FrameType
from typing import Any

from carrel.agent import JSON, Agent, AgentError, RunContext, RunPort
from carrel.agent_errors import AgentDied
from carrel_chassis.logs import get_logger
from carrel_execution.agents import keepsakes

CLOSE_SECONDS = 1.0
"""How long an agent's `close`, and the tasks that it has left, may take to end."""

_OURS = ("carrel_execution", "carrel_chassis", "grpc", "asyncpg", "nats", "opentelemetry")
"""Who makes tasks of their own when an agent calls them; those may outlive the agent."""


class AgentStuck(BaseException):
    """Raised by the watchdog inside of an agent that keeps the loop. Not an Exception: agents catch those."""


class LoopAgent:
    """One agent at work in this loop, for one run."""

    def __init__(self, agent: Agent) -> None:
        self.name = agent.name
        self.run_id = ""
        """Set while it runs."""
        self.blocked = ""
        """What the watchdog has to say of it, a sentence; set before it raises AgentStuck."""
        self.agent = agent
        self._tasks: set[asyncio.Task[Any]] = set()
        self._work: asyncio.Task[Any] | None = None
        self._death: AgentDied | None = None

    async def run(self, port: RunPort, input: Mapping[str, JSON]) -> JSON:
        """As the agent's own; raises AgentDied for what would end the process."""
        outer, self._work, self.run_id = _at_work.get(), asyncio.current_task(), port.run_id
        _at_work.set(self)
        try:
            result = await self.agent.perform(RunContext(port), input)
            keepsakes.refuse_foreign(self.agent, port)
            return result
        except asyncio.CancelledError:
            if self._death is not None:
                raise self._death from None
            raise
        except (SystemExit, KeyboardInterrupt, AgentStuck) as end:
            raise self._died_of(end) from None
        finally:
            _at_work.set(outer)
            self.run_id = ""

    async def close(self) -> bool:
        """Ends what the agent has started, and lets it end what it has opened; false when one of the two was not to be done in time."""
        closes = type(self.agent).close is not Agent.close
        closing = [asyncio.create_task(self._guarded(self.agent.close()))] if closes else []
        for task in self._tasks:
            task.cancel()
        ending = {*closing, *self._tasks}
        if not ending:
            return True
        if self._tasks:
            get_logger().warning("agent.left_tasks", agent=self.name, count=len(self._tasks))
        done, late = await asyncio.wait(ending, timeout=CLOSE_SECONDS)
        for task in late:
            task.cancel()
        failed = [task for task in closing if task in done and not task.cancelled() and task.exception() is not None]
        for task in failed:
            get_logger().error("agent.close_failed", agent=self.name, exc_info=task.exception())
        return not late and not failed

    def adopt(
        self, work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, **options: Any
    ) -> asyncio.Task[Any]:
        """Makes a task of the agent's: it ends with the agent, and what it raises cannot end the loop."""
        task = asyncio.Task(self._guarded(work), loop=loop, **options)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except (SystemExit, KeyboardInterrupt, AgentStuck) as end:
            self._death = self._died_of(end)
            if self._work is not None:
                self._work.cancel()
            raise self._death from None

    def _died_of(self, end: BaseException) -> AgentDied:
        if isinstance(end, AgentStuck):
            return AgentDied(self.blocked)
        return AgentDied(f"The agent died of {type(end).__name__}.")


_at_work: ContextVar[LoopAgent | None] = ContextVar("carrel_agent_at_work", default=None)


def guard_loop(loop: asyncio.AbstractEventLoop) -> None:
    """From now on the tasks that agents make in this loop are known as theirs."""
    loop.set_task_factory(_make_task)


def forbid_forks() -> None:
    """From now on nothing in this process can fork it. A copy would share connections, leases and the loop's descriptors with it."""
    sys.addaudithook(_refuse_fork)


def agent_of(innermost: FrameType) -> tuple[LoopAgent, FrameType] | None:
    """The agent that a thread is at work for, and the frame of its code; None when the thread does something else.

    Libraries are not the agent's code: its author knows best where they were called.
    """
    at, frame = innermost, innermost
    known = False
    while frame.f_back is not None:
        if frame.f_code in _ROOTS:
            return frame.f_locals["self"], at
        if not known:
            at = frame
            known = not _is_ours(frame) and not frame.f_code.co_filename.startswith(_LIBRARIES)
        frame = frame.f_back
    return None


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    agent = _at_work.get()
    if agent is None or not asyncio.iscoroutine(work) or _made_by_us():
        return asyncio.Task(work, loop=loop, **options)
    return agent.adopt(work, loop, **options)


def _made_by_us() -> bool:
    """Whether the code that asked asyncio for a task is ours rather than an agent's."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _package(frame) == "asyncio":
        frame = frame.f_back
    return frame is not None and _is_ours(frame)


def _is_ours(frame: FrameType) -> bool:
    return _package(frame) in _OURS


def _package(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0]


def _refuse_fork(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("os.fork", "os.forkpty"):
        raise AgentError("FORK_FORBIDDEN", 'The agents of many users run in this process; state isolation = "process".')


_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_ROOTS = (LoopAgent.run.__code__, LoopAgent._guarded.__code__)
