"""A run of an agent within a test: it goes on step by step, dies where the test says, and goes on from its journal."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NoReturn

from carrel.agent import Agent
from carrel.agent_errors import JSON, AgentError
from carrel.json_text import from_json, to_json
from carrel.replay import Answered, WaitKind, WaitState, result_json
from carrel.run_context import RunContext
from carrel.testing.memory import JournalInMemory
from carrel.testing.port import Attempt, LocalPort
from carrel.testing.script import Call, Event, PlayedReply, PlayedTool, Step, World

_BEGIN = 1_700_000_000.0


class Waiting(Exception):
    """The run waits for a person: `AgentRun.answer` lets it go on."""


class Turn:
    """One step at work."""

    def __init__(self, dies: bool, over: Callable[[], None]) -> None:
        self._dies = dies
        self._over = over

    async def before_it_is_kept(self) -> None:
        """Returns, unless the worker is to die at this moment."""
        if self._dies:
            self._over()
            await asyncio.get_running_loop().create_future()


class AgentRun:
    """One run, from its start to its end, through as many attempts as the test makes of it."""

    def __init__(
        self,
        agent: type[Agent[Any, Any]],
        input: Mapping[str, JSON] | None = None,
        *,
        tools: Mapping[str, PlayedTool] | None = None,
        models: Mapping[str, Sequence[PlayedReply]] | None = None,
        agents: Iterable[type[Agent[Any, Any]]] = (),
        settings: Mapping[str, JSON] | None = None,
        state: JSON = None,
        clock: Callable[[], float] = lambda: _BEGIN,
    ) -> None:
        """`tools` are functions by name, `models` their replies in order by name; `agents` are those that this one may run; `state` is
        what runs before have left in the thread. The input is JSON, as a caller gives it."""
        self.run_id, self.thread_id = "run-of-a-test", "thread-of-a-test"
        self.settings: Mapping[str, JSON] = settings or {}
        self.agents = {each.name: each for each in (agent, *agents)}
        self.clock = clock
        self.attempt = 0
        """How many workers have had it so far."""
        self.journal = JournalInMemory()
        self._agent = agent
        self._input_json = to_json(dict(input or {}))
        self._world = World(tools or {}, {name: deque(replies) for name, replies in (models or {}).items()})
        self._world.state_json = "" if state is None else to_json(state)
        self._task: asyncio.Task[JSON] | None = None
        self._permits = asyncio.Semaphore(0)
        self._done: asyncio.Queue[Step] = asyncio.Queue()
        self._dies_in_next = False
        self._waits: Answered | None = None
        self._given_up: AgentError | None = None

    @property
    def calls(self) -> Sequence[Call]:
        """The calls of tools that were made, in order."""
        return self._world.calls

    @property
    def model_requests(self) -> Sequence[tuple[str, Mapping[str, JSON]]]:
        """What models were asked, in order, each with the name of the model."""
        return self._world.requests

    @property
    def events(self) -> Sequence[Event]:
        """What the user was told, in order."""
        return tuple(self._world.events.values())

    def events_of(self, type: str) -> list[JSON]:
        """What events of this type say: the text or message alone where there is one, else all of their data."""
        told = [event.data for event in self.events if event.type == type]
        return [data.get("text", data.get("message", data)) for data in told]

    @property
    def state(self) -> JSON:
        """What is left in the thread so far."""
        return from_json(self._world.state_json) if self._world.state_json else None

    async def advance(self) -> Step | None:
        """Goes on until one more step is done, or waits for a person; None when the run has ended. A step that is replayed is none."""
        if self._task is None:
            self._begin()
        task = self._task
        assert task is not None
        if self._waits is not None or (task.done() and self._done.empty()):
            return None
        self._permits.release()
        step = asyncio.ensure_future(self._done.get())
        await asyncio.wait({task, step}, return_when=asyncio.FIRST_COMPLETED)
        if step.done():
            return step.result()
        step.cancel()
        return None

    async def finish(self) -> JSON:
        """Goes on to the end and returns the result; raises what the agent raises, and Waiting when it waits for a person."""
        while await self.advance() is not None:
            pass
        if self._waits is not None:
            raise Waiting(f"The run waits for a person at step {self._waits.step_id}.")
        assert self._task is not None
        return await self._task

    async def crash(self) -> None:
        """Its worker dies now: what the agent had in memory is gone, and the next step is another worker's."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task, self._waits = None, None

    async def crash_in_next(self) -> None:
        """Its worker dies in the next step: the work is done, and its result is not kept. A call of a tool is kept by the tools' side."""
        self._dies_in_next = True
        try:
            await self.advance()
        finally:
            self._dies_in_next = False
        await self.crash()

    async def answer(self, answer: JSON) -> None:
        """Gives the run the input, or the decision True or False, that it waits for."""
        wait = self._waits
        if wait is None:
            raise ValueError("The run waits for nobody.")
        denied = wait.kind is WaitKind.APPROVAL and not answer
        state = WaitState.DENIED if denied else WaitState.RESOLVED
        await self.crash()  # no process holds a run that waits
        self.journal.waits[wait.step_id] = replace(wait, state=state, answer_json=to_json(answer), resolve_time=1.0)

    @asynccontextmanager
    async def turn(self, step: Step) -> AsyncIterator[Turn]:
        """The time in which a step works; it begins when the test lets it, and is told when it is over, however it ended."""
        await self._permits.acquire()
        try:
            yield Turn(self._dies_in_next, lambda: self._done.put_nowait(step))
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._done.put_nowait(step)
            raise
        self._done.put_nowait(step)

    async def wait(self, step: Step, wait: Answered) -> NoReturn:
        """Does not return: an answer comes to another attempt."""
        self._waits = wait
        self._done.put_nowait(step)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    def give_up(self, error: AgentError) -> AgentError:
        """From now on the run fails with this error, whatever its agent makes of it."""
        self._given_up = error
        return error

    def _begin(self) -> None:
        self.attempt += 1
        self._permits, self._done = asyncio.Semaphore(0), asyncio.Queue()
        self._task = asyncio.create_task(self._perform(Attempt(self, self._world, self.journal.before())))

    async def _perform(self, attempt: Attempt) -> JSON:
        agent = self._agent()
        self._tell("started", "agent_started")
        try:
            result = await agent.perform(RunContext(LocalPort(attempt, agent.name)), from_json(self._input_json))
            if self._given_up is not None:
                raise self._given_up
            self.journal.close()
            result = from_json(result_json("The agent", result))
        except AgentError as error:
            failure = self._given_up or error
            self._tell("final", "agent_failed", reason=failure.reason, message=failure.message)
            raise failure from None
        finally:
            await agent.close()
        self._tell("final", "agent_completed", result=result)
        return result

    def _tell(self, place: str, type: str, **data: JSON) -> None:
        self._world.tell(Event(f"{self.run_id}.{place}", type, self._agent.name, data))
