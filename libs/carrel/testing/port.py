"""What an agent's context stands on in a test. It does what agent-execution does, in the same order, with a journal in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, NoReturn

from carrel.agent_errors import JSON, AgentError, OutcomeUnknown, ToolError
from carrel.json_text import from_json, to_json
from carrel.model_answer import text_of
from carrel.replay import (
    Answered,
    Journal,
    Mismatch,
    StepKind,
    StepRecord,
    StepState,
    WaitKind,
    WaitState,
    digest,
    error_kind,
    error_of,
    lasting,
    result_json,
    unknown,
    wait_id,
)
from carrel.run_context import RunContext
from carrel.run_port import RunPort, ThreadState
from carrel.testing.script import Event, Step, World

if TYPE_CHECKING:
    from carrel.testing.run import AgentRun

_FOR_EVER = 4102444800.0


@dataclass(frozen=True)
class Attempt:
    """One life of the agent: between the start or a crash, and the end or the next."""

    run: AgentRun
    world: World
    before: Journal


class LocalPort(RunPort):
    """The port of one agent within an attempt; `place` is "" for the agent of the run, "2" for what its second step called."""

    def __init__(self, attempt: Attempt, agent: str, place: str = "") -> None:
        run = attempt.run
        self.run_id, self.thread_id, self.agent = run.run_id, run.thread_id, agent
        self.settings, self.models = run.settings, tuple(attempt.world.models)
        self.random = Random(f"{run.run_id}/{place}")
        self.state: ThreadState = _State(attempt.world)
        self._attempt = attempt
        self._world = attempt.world
        self._journal = run.journal
        self._prefix = f"{place}." if place else ""
        self._steps = self._messages = self._looks = 0

    async def call_tool(self, tool: str, /, **arguments: JSON) -> JSON:
        place = self._next()
        arguments_json = to_json(arguments)
        known = self._journal.ledger.get(place)
        if known is not None and known[:2] != (tool, arguments_json):
            self._disagree(place, f"the tool {tool} now and for the tool {known[0]} before")
        self._journal.flush()
        self._tell(f"{place}.executing", "tool_executing", tool=tool, arguments=arguments)
        if known is None:
            known = await self._called(place, tool, arguments_json)
        record = known[2]
        failed = record.state is StepState.FAILED
        self._tell(
            f"{place}.completed", "tool_completed", tool=tool, succeeded=not failed, error_message=record.error_message
        )
        if failed:
            raise error_of(record)
        return from_json(record.result_json)

    async def _called(self, place: str, tool: str, arguments_json: str) -> tuple[str, str, StepRecord]:
        """Makes the call. Its outcome is in the ledger from then on, whatever becomes of the worker."""
        async with self._attempt.run.turn(Step("TOOL", tool, place)):
            arguments = from_json(arguments_json)
            try:
                result = result_json(f"The tool {tool}", await self._world.call_tool(tool, arguments))
                record = StepRecord(place, StepKind.LOCAL, tool, "", StepState.SUCCEEDED, result)
            except ToolError as error:
                record = _failed(StepRecord(place, StepKind.LOCAL, tool, "", StepState.FAILED), error)
            known = self._journal.ledger[place] = (tool, arguments_json, record)
        return known

    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        place = self._next()
        input_json = to_json(dict(input))

        async def run() -> JSON:
            agent_class = self._attempt.run.agents.get(agent)
            if agent_class is None:
                raise AgentError("AGENT_NOT_FOUND", f"There is no agent {agent}; the test has none of this name.")
            below = LocalPort(self._attempt, agent, place)
            self._tell(f"{place}.started", "agent_started", by=agent, parent_agent=self.agent)
            try:
                result = await agent_class().perform(RunContext(below), from_json(input_json))
            except AgentError as error:
                self._tell(f"{place}.failed", "agent_failed", by=agent, reason=error.reason, message=error.message)
                raise
            self._tell(f"{place}.ended", "agent_completed", by=agent)
            return result

        # No turn of its own: its steps have theirs.
        found = self._find(place, StepKind.AGENT, agent, digest(input_json))
        if found is not None:
            return self._replayed(found)
        record = StepRecord(place, StepKind.AGENT, agent, digest(input_json), StepState.SUCCEEDED)

        async def hold_back(step: StepRecord) -> None:
            self._journal.hold_back(step)

        return await self._done(record, run, hold_back)

    async def call_model(self, model: str, request: Mapping[str, JSON], quiet: bool = False) -> JSON:
        place = self._next()

        async def ask() -> JSON:
            return self._world.call_model(model, request)

        result = await self._journaled(place, StepKind.MODEL, model, digest(to_json(lasting(dict(request)))), ask)
        if not quiet and (text := text_of(result["response"])):
            self._tell(f"{place}.text", "partial_result", message_id=f"{self.run_id}.{place}", text=text)
        return result

    async def step(self, name: str, function: Callable[[], Awaitable[JSON]], *, at_most_once: bool = False) -> JSON:
        return await self._journaled(self._next(), StepKind.LOCAL, name, "", function, intent=at_most_once)

    async def _journaled(
        self,
        place: str,
        kind: StepKind,
        name: str,
        input_digest: str,
        work: Callable[[], Awaitable[JSON]],
        *,
        intent: bool = False,
    ) -> JSON:
        found = self._find(place, kind, name, input_digest)
        if found is not None:
            return self._replayed(found)
        self._journal.flush()
        record = StepRecord(place, kind, name, input_digest, StepState.SUCCEEDED)
        async with self._attempt.run.turn(Step(str(kind), name, place)) as turn:
            if intent:
                self._journal.keep(StepRecord(place, kind, name, input_digest, StepState.INTENDED))

            async def keep(step: StepRecord) -> None:
                await turn.before_it_is_kept()
                self._journal.keep(step)

            return await self._done(record, work, keep)

    async def _done(
        self, record: StepRecord, work: Callable[[], Awaitable[JSON]], keep: Callable[[StepRecord], Awaitable[None]]
    ) -> JSON:
        try:
            done = replace(record, result_json=result_json(f"The step {record.name}", await work()))
        except AgentError as error:
            await keep(_failed(record, error))
            raise
        await keep(done)
        return from_json(done.result_json)

    def _find(self, place: str, kind: StepKind, name: str, input_digest: str) -> StepRecord | None:
        try:
            return self._attempt.before.find(place, kind, name, input_digest)[1]
        except Mismatch as mismatch:
            self._disagree(place, str(mismatch))

    def _replayed(self, found: StepRecord) -> JSON:
        if found.state is StepState.SUCCEEDED:
            return from_json(found.result_json)
        if found.state is StepState.FAILED:
            raise error_of(found)
        self._journal.keep(unknown(found))
        message = f"The step {found.name} was begun and its worker died; look whether it had its effect, then go on."
        raise OutcomeUnknown("OUTCOME_UNKNOWN", message)

    async def wait_for_input(
        self, prompt: str, schema: Mapping[str, JSON] | None = None, timeout: float | None = None
    ) -> JSON:
        asked = digest(prompt, "" if schema is None else to_json(dict(schema)))
        wait = await self._waited(WaitKind.INPUT, prompt, asked)
        self._tell(f"{wait.step_id}.answered", "input_received", expired=wait.state is WaitState.EXPIRED)
        if wait.state is not WaitState.RESOLVED:
            raise AgentError("WAIT_EXPIRED", f"Nobody has answered in time: {prompt}")
        return from_json(wait.answer_json)

    async def wait_for_approval(self, prompt: str, timeout: float | None = None) -> bool:
        wait = await self._waited(WaitKind.APPROVAL, prompt, digest(prompt))
        approved = wait.state is WaitState.RESOLVED
        self._tell(f"{wait.step_id}.answered", "approval_resolved", approved=approved)
        if wait.state is WaitState.EXPIRED:
            raise AgentError("WAIT_EXPIRED", f"Nobody has answered in time: {prompt}")
        return approved

    async def _waited(self, kind: WaitKind, prompt: str, asked: str) -> Answered:
        place = self._next()
        try:
            wait = self._attempt.before.wait(place, kind, asked, "an answer of its user")
        except Mismatch as mismatch:
            self._disagree(place, str(mismatch))
        if wait is None or wait.state is WaitState.PENDING:
            self._journal.flush()
            id = wait_id(self.run_id, place)
            pending = Answered(id, place, kind, WaitState.PENDING, asked, "", asked, "", 0.0, _FOR_EVER)
            self._journal.waits[place] = pending
            self._tell(f"{place}.asked", f"{kind.lower()}_requested", prompt=prompt)
            await self._attempt.run.wait(Step("WAIT", prompt, place), pending)
        return wait

    async def now(self) -> float:
        self._looks += 1
        place = f"{self._prefix}c{self._looks}"
        found = self._find(place, StepKind.LOCAL, "now", "")
        if found is not None:
            return float(from_json(found.result_json))
        now = self._attempt.run.clock()
        self._journal.hold_back(StepRecord(place, StepKind.LOCAL, "now", "", StepState.SUCCEEDED, to_json(now)))
        return now

    async def thinking(self, text: str) -> None:
        self._say("agent_thinking", text=text)

    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        self._say("progress_update", message=message, done=done, total=total)

    async def partial_result(self, message_id: str, delta: str = "", text: str = "") -> None:
        if text:  # pieces are kept nowhere
            self._say("partial_result", message_id=message_id, text=text)

    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        self._say("custom", name=name, data=from_json(to_json(dict(data))))

    def _say(self, type: str, **data: JSON) -> None:
        self._messages += 1
        self._tell(f"{self._prefix}m{self._messages}", type, **data)

    def _tell(self, place: str, type: str, by: str = "", **data: JSON) -> None:
        self._world.tell(Event(f"{self.run_id}.{place}", type, by or self.agent, data))

    def _disagree(self, place: str, what: str) -> NoReturn:
        message = f"At step {place}, {self.agent} asks for {what}: its code has changed, or it does not do the same each time."
        raise self._attempt.run.give_up(AgentError("JOURNAL_MISMATCH", message))

    def _next(self) -> str:
        self._steps += 1
        return f"{self._prefix}{self._steps}"


class _State(ThreadState):
    def __init__(self, world: World) -> None:
        self._world = world

    async def get(self) -> JSON:
        return from_json(self._world.state_json) if self._world.state_json else None

    async def set(self, value: JSON) -> None:
        self._world.state_json = to_json(value)


def _failed(record: StepRecord, error: AgentError) -> StepRecord:
    return replace(
        record,
        state=StepState.FAILED,
        error_kind=error_kind(error),
        error_reason=error.reason,
        error_message=error.message,
    )
