"""What an agent holds of its run: every step has its place in the run, and its events and tool calls are named by that place."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

from carrel import replay
from carrel.agent import JSON, AgentError, OutcomeUnknown, RunPort, ToolError
from carrel.api.events.v1 import event_pb2 as pb
from carrel.replay import Answered, Ask, Mismatch, StepKind, StepRecord, StepState, WaitKind, WaitState
from carrel_execution.agents.factory import Instance
from carrel_execution.attempt import events
from carrel_execution.attempt.parts import MODEL, STEP, TOOL
from carrel_execution.attempt.thread_state import LiveState
from carrel_execution.attempt.tool_progress import ToolProgress
from carrel_execution.attempt.world import ConsentRequired, ReplayedFailure, World, check_open
from carrel_execution.domain import clean, from_json, to_json
from carrel_execution.journal import answers
from carrel_execution.models.requests import text_in

_MAX_TEXT = 8000
_MAX_PROMPT = 2000
_MAX_CUSTOM = 64 * 1024
_MAX_PARTIAL = 48 * 1024
"""Characters of a whole text in an event; the journal has all of it."""
_MAX_DEPTH = 8
_MAX_NAME = 128


class LiveContext(RunPort):
    """What the context of one agent within an attempt stands on. `place` is its own: "" for the agent of the run, "2" for what its
    second step called. Steps, messages, pieces of text and looks at the clock are counted apart, so that a message more or less moves no
    step.
    """

    def __init__(self, world: World, agent: str, place: str = "") -> None:
        self.run_id, self.thread_id, self.agent = world.run_id, world.thread_id, agent
        self.settings, self.models = world.agent_settings(), world.models
        self.place = place
        self.random = Random(f"{world.run_id}/{place}")
        self.state = LiveState(world)
        self._world = world
        self._steps = 0
        self._messages = 0
        self._deltas = 0
        self._looks = 0
        # What a retry tells is new, though it stands at an old place.
        self._again = f"~{world.journal.before.retry}" if world.journal.before.retry else ""
        world.factory.counts.context_made(self)

    async def call_tool(self, tool: str, /, **arguments: JSON) -> JSON:
        await check_open(self._world)
        step = self._next_step()
        try:
            arguments_json = to_json(arguments)
        except ValueError as error:
            raise ToolError("INVALID_ARGUMENT", f"The arguments of {tool} are no JSON: {clean(error, 200)}.") from None
        tool_call_id, name = f"{self.run_id}.{step}", clean(tool, _MAX_NAME)
        await self._world.journal.flush()
        await self._emit(f"{step}.executing{self._again}", events.tool_executing(tool_call_id, name, arguments_json))
        begin = time.perf_counter()
        done = pb.ToolCompleted(tool_call_id=tool_call_id, tool=name, succeeded=True)
        try:
            return from_json(await self._execute(step, name, arguments_json))
        except ToolError as error:
            done.succeeded, done.error_message = False, clean(error.message, _MAX_TEXT)
            raise
        finally:
            if not self._world.over:
                done.duration_ms = int((time.perf_counter() - begin) * 1e3)
                await self._emit(f"{step}.completed{self._again}", done)

    async def _execute(self, place: str, tool: str, arguments_json: str) -> str:
        """In a retry, a call that had failed is made once more, under another key; one that had succeeded is not."""
        *earlier, last = self._world.journal.before.keys(place)
        for key in earlier:
            try:
                return await self._call(place, key, tool, arguments_json)
            except ReplayedFailure:
                continue
        return await self._call(place, last, tool, arguments_json)

    async def _call(self, place: str, key: str, tool: str, arguments_json: str) -> str:
        """Makes the call; where the user must consent first, the run waits for that and then makes it again."""
        asked = replay.digest(tool, arguments_json)
        wait = await self._waited(key, WaitKind.APPROVAL, asked, f"the tool {tool}")
        if wait is not None:
            await self._tell_of(wait)
            answers.check_consent(wait, tool)
        try:
            with self._world.part(TOOL, tool, key):
                told = ToolProgress(self._emit, key, f"{self.run_id}.{place}", self._world.now)
                return await self._world.call_tool(key, tool, arguments_json, wait, told)
        except ConsentRequired as required:
            if wait is not None:
                message = f"The consent to {tool} is worth nothing any more; ask again in a new run."
                raise ToolError("APPROVAL_EXPIRED", message) from None
            await self._world.ask(
                Ask(
                    wait_id=replay.wait_id(self.run_id, key),
                    step_id=key,
                    kind=WaitKind.APPROVAL,
                    agent=self.agent,
                    prompt=clean(required.prompt, _MAX_PROMPT) or f"{self.agent} asks for your consent to call {tool}.",
                    input_digest=asked,
                    expire_time=self._world.latest_answer(required.seconds),
                    tool=tool,
                    arguments_json=arguments_json,
                    arguments_digest=required.arguments_digest,
                )
            )

    async def wait_for_input(
        self, prompt: str, schema: Mapping[str, JSON] | None = None, timeout: float | None = None
    ) -> JSON:
        await check_open(self._world)
        step = self._next_step()
        prompt, schema_json = clean(prompt, _MAX_PROMPT), answers.checked_schema(schema)
        asked = replay.digest(prompt, schema_json)
        wait = await self._waited(step, WaitKind.INPUT, asked, "an answer of its user")
        if wait is None:
            await self._world.ask(
                Ask(
                    wait_id=replay.wait_id(self.run_id, step),
                    step_id=step,
                    kind=WaitKind.INPUT,
                    agent=self.agent,
                    prompt=prompt,
                    input_digest=asked,
                    expire_time=self._world.latest_answer(timeout),
                    answer_schema_json=schema_json,
                )
            )
        await self._tell_of(wait)
        if wait.state is not WaitState.RESOLVED:
            raise _nobody_answered(prompt)
        return from_json(wait.answer_json)

    async def wait_for_approval(self, prompt: str, timeout: float | None = None) -> bool:
        await check_open(self._world)
        step, prompt = self._next_step(), clean(prompt, _MAX_PROMPT)
        asked = replay.digest(prompt)
        wait = await self._waited(step, WaitKind.APPROVAL, asked, "the consent of its user")
        if wait is None:
            await self._world.ask(
                Ask(
                    wait_id=replay.wait_id(self.run_id, step),
                    step_id=step,
                    kind=WaitKind.APPROVAL,
                    agent=self.agent,
                    prompt=prompt,
                    input_digest=asked,
                    expire_time=self._world.latest_answer(timeout),
                    arguments_digest=asked,  # what the user consents to is the prompt
                )
            )
        await self._tell_of(wait)
        if wait.state not in (WaitState.RESOLVED, WaitState.DENIED):
            raise _nobody_answered(prompt)
        return wait.state is WaitState.RESOLVED

    async def _waited(self, key: str, kind: WaitKind, asked: str, what: str) -> Answered | None:
        """The answer, None when nothing has been asked here yet. While there is no answer it does not return."""
        try:
            wait = self._world.journal.before.wait(key, kind, asked, what)
        except Mismatch as mismatch:
            await self._world.disagree(self.agent, key, str(mismatch))
        if wait is not None and wait.state is WaitState.PENDING:
            await self._world.ask(Ask(wait.wait_id, key, kind, self.agent, "", asked, wait.expire_time))
        return wait

    async def _tell_of(self, wait: Answered) -> None:
        """Before the run goes on; whoever answered has sent the same event, under the same id."""
        await self._world.emit(events.answered(self.run_id, self.agent, self._world.now(), wait))

    async def run_agent(self, agent: str, input: Mapping[str, JSON]) -> JSON:
        await check_open(self._world)
        step = self._next_step()
        if step.count(".") >= _MAX_DEPTH:
            raise AgentError("TOO_DEEP", f"Agents may call agents {_MAX_DEPTH} deep; do the work of {agent} here.")
        try:
            input_json = to_json(dict(input))
        except ValueError as error:
            raise AgentError("INVALID_INPUT", f"The input of {agent} is no JSON: {clean(error, 200)}.") from None

        async def run() -> JSON:
            with self._world.part(self._world.factory.part_kind(agent), agent, step):
                async with self._world.factory.instance(agent, self._world.memory_limit_mb) as instance:
                    context = LiveContext(self._world, agent, step)
                    return await self._run_below(instance, context, from_json(input_json))

        # What is in a sub-agent is journaled itself: its result can wait for the next thing that must be written.
        return await self._journaled(
            step, StepKind.AGENT, agent, replay.digest(input_json), run, self._world.journal.hold_back
        )

    async def _run_below(self, instance: Instance, context: LiveContext, input: Mapping[str, JSON]) -> JSON:
        """Runs a sub-agent; its begin and its end are told, and neither is the end of the run."""
        step, name = context.place, context.agent
        await self._emit(f"{step}.started{self._again}", pb.AgentStarted(parent_agent=self.agent), agent=name)
        try:
            result = from_json(replay.result_json(f"The agent {name}", await instance.run(context, input)))
        except AgentError as error:
            failure = pb.AgentFailed(reason=clean(error.reason, 64), message=clean(error.message, _MAX_TEXT))
            await self._emit(f"{step}.failed{self._again}", failure, agent=name)
            raise
        except Exception as error:
            failure = pb.AgentFailed(reason="AGENT_CRASHED", message=type(error).__name__)
            await self._emit(f"{step}.failed{self._again}", failure, agent=name)
            raise
        await self._emit(f"{step}.ended{self._again}", pb.AgentCompleted(), agent=name)
        return result

    async def step(self, name: str, function: Callable[[], Awaitable[JSON]], *, at_most_once: bool = False) -> JSON:
        await check_open(self._world)
        step, name = self._next_step(), clean(name, _MAX_NAME)

        async def work() -> JSON:
            with self._world.part(STEP, name, step):
                return await function()

        return await self._journaled(
            step, StepKind.LOCAL, name, "", work, self._world.journal.keep, intent=at_most_once
        )

    async def call_model(self, model: str, request: Mapping[str, JSON], quiet: bool = False) -> JSON:
        await check_open(self._world)
        step = self._next_step()
        try:
            asked = replay.digest(to_json(replay.lasting(dict(request))))
        except ValueError as error:
            raise AgentError("MODEL_REFUSED", f"The request to {model} is no JSON: {clean(error, 200)}.") from None
        message_id = f"{self.run_id}.{step}{self._again}"

        async def write(message: str, delta: str) -> None:
            if not quiet:
                await self._world.emit(self._delta(message, delta))

        async def work() -> JSON:
            with self._world.part(MODEL, model, step):
                return await self._world.call_model(model, request, message_id, write)

        result = await self._journaled(step, StepKind.MODEL, model, asked, work, self._world.journal.keep)
        if not quiet and (text := text_in(result["response"])):
            whole = pb.PartialResult(message_id=result.get("message_id") or message_id, text=clean(text, _MAX_PARTIAL))
            await self._emit(f"{step}.text{self._again}", whole)
        return result

    async def _journaled(
        self,
        place: str,
        kind: StepKind,
        name: str,
        input_digest: str,
        work: Callable[[], Awaitable[JSON]],
        write: Callable[[StepRecord], Awaitable[None]],
        *,
        intent: bool = False,
    ) -> JSON:
        """Returns what the journal has for the step, or does the work and writes what it came to. With `intent` it is written first
        that the work begins: then it is never begun twice."""
        key, found = await self._find(place, kind, name, input_digest)
        if found is not None:
            return await self._replayed(found)
        begin_time, retry = self._world.now(), self._world.journal.before.retry

        def record(state: StepState, **values: str) -> StepRecord:
            return StepRecord(key, kind, name, input_digest, state, **values, retry=retry, begin_time=begin_time)

        await self._world.journal.flush()
        if intent:
            await self._world.journal.keep(record(StepState.INTENDED))
        try:
            result_json = replay.result_json(f"The step {name}", await work())
        except AgentError as error:
            failure = {"error_reason": clean(error.reason, 64), "error_message": clean(error.message, _MAX_TEXT)}
            await write(record(StepState.FAILED, **failure, error_kind=replay.error_kind(error)))
            raise
        await write(record(StepState.SUCCEEDED, result_json=result_json))
        return from_json(result_json)

    async def _find(self, place: str, kind: StepKind, name: str, input_digest: str) -> tuple[str, StepRecord | None]:
        try:
            return self._world.journal.before.find(place, kind, name, input_digest)
        except Mismatch as mismatch:
            await self._world.disagree(self.agent, place, str(mismatch))

    async def _replayed(self, found: StepRecord) -> JSON:
        match found.state:
            case StepState.SUCCEEDED:
                return from_json(found.result_json)
            case StepState.FAILED:
                raise replay.error_of(found)
        if found.state is StepState.INTENDED:
            await self._world.journal.keep(replay.unknown(found))
        message = f"The step {found.name} was begun and its worker died; look whether it had its effect, then go on."
        raise OutcomeUnknown("OUTCOME_UNKNOWN", message)

    async def now(self) -> float:
        await check_open(self._world)
        self._looks += 1
        place = f"{self._prefix}c{self._looks}"
        key, found = await self._find(place, StepKind.LOCAL, "now", "")
        if found is not None:
            return float(from_json(found.result_json))
        now = self._world.now()
        seen = StepRecord(key, StepKind.LOCAL, "now", "", StepState.SUCCEEDED, to_json(now), begin_time=now)
        await self._world.journal.hold_back(seen)
        return now

    async def thinking(self, text: str) -> None:
        await self._say(pb.AgentThinking(text=clean(text, _MAX_TEXT)))

    async def progress(self, message: str, done: int = 0, total: int = 0) -> None:
        await self._say(events.progress(clean(message, _MAX_TEXT), done, total))

    async def partial_result(self, message_id: str, delta: str = "", text: str = "") -> None:
        message_id = clean(message_id, _MAX_NAME)
        if text:
            await self._say(pb.PartialResult(message_id=message_id, text=clean(text, _MAX_PARTIAL)))
        elif delta:
            # No message of the agent's own: nothing else moves when an attempt cuts its text elsewhere.
            await check_open(self._world)
            await self._world.emit(self._delta(message_id, clean(delta, _MAX_TEXT)))

    async def custom(self, name: str, data: Mapping[str, JSON]) -> None:
        try:
            data_json = to_json(dict(data))
        except ValueError as error:
            raise AgentError("INVALID_EVENT", f"The event {name} is no JSON: {clean(error, 200)}.") from None
        if (size := len(data_json.encode())) > _MAX_CUSTOM:
            raise AgentError("TOO_LARGE", f"The event {name} has {size} bytes; it may have {_MAX_CUSTOM}.")
        await self._say(pb.Custom(name=clean(name, _MAX_NAME), data_json=data_json))

    async def _say(self, payload: Any) -> None:
        await check_open(self._world)
        self._messages += 1
        await self._emit(f"{self._prefix}m{self._messages}{self._again}", payload)

    async def _emit(self, place: str, payload: Any, *, agent: str = "") -> None:
        await self._world.emit(self._event(f"{self.run_id}.{place}", payload, agent=agent))

    def _event(self, event_id: str, payload: Any, *, agent: str = "") -> pb.Event:
        return events.event(event_id, events.TYPES[payload.__class__], agent or self.agent, self._world.now(), payload)

    def _delta(self, message_id: str, delta: str) -> pb.Event:
        """A piece of a text; it is in no log, so that its id need not be the same in each attempt."""
        self._deltas += 1
        event_id = f"{self.run_id}.{self._prefix}d{self._deltas}{self._again}"
        return self._event(event_id, pb.PartialResult(message_id=message_id, delta=delta))

    @property
    def _prefix(self) -> str:
        return f"{self.place}." if self.place else ""

    def _next_step(self) -> str:
        self._steps += 1
        return f"{self._prefix}{self._steps}"


def _nobody_answered(prompt: str) -> AgentError:
    return AgentError("WAIT_EXPIRED", f"Nobody has answered in time: {clean(prompt, 200)}")
