"""One attempt of one run, from its claim to its end. Everything in it belongs to this run alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, NoReturn

from carrel.agent import JSON, AgentError, Retry, ToolError
from carrel.agent_errors import AgentDied
from carrel.api.context.v1 import user_context_pb2
from carrel.api.events.v1 import event_pb2 as pb
from carrel.replay import Answered, Ask
from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_execution import domain
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.attempt import events
from carrel_execution.attempt.asking import Asking
from carrel_execution.attempt.credentials import ContextRefused, Credentials
from carrel_execution.attempt.parts import Part
from carrel_execution.attempt.run_context import LiveContext
from carrel_execution.attempt.run_journal import RunJournal
from carrel_execution.attempt.telling import Telling
from carrel_execution.attempt.tool_progress import Tell
from carrel_execution.attempt.world import ConsentRequired, ReplayedFailure
from carrel_execution.clients import Consent, Contexts, Credential, Log, Tools, persist
from carrel_execution.domain import ClaimedRun, Outcome, State
from carrel_execution.journal.answers import consent_until
from carrel_execution.journal.store import JournalStore, Standing
from carrel_execution.models.calls import Models
from carrel_execution.models.requests import Write
from carrel_execution.queue.outbox import Outbox
from carrel_execution.queue.retrying import retry_of
from carrel_execution.queue.store import Ended, Queue
from carrel_execution.runs.statistics import RunStatistics
from carrel_execution.settings import ExecutionSettings

_SETTLE_SECONDS = 0.25


class Stop(Enum):
    """Why an attempt ends before its agent does."""

    CANCELLED = "its user has asked for it"
    REFUSED = "its user may no longer act"
    REVOKED = "its user, session or run has been revoked"
    GIVEN_UP = "its agent has done what no agent may"
    ASKING = "it waits for its user"
    LOST = "another attempt has taken over"
    GIVEN_BACK = "this process stops, another goes on with it"


@dataclass(frozen=True)
class Workshop:
    """What the attempts of a process share; none of it belongs to a user."""

    settings: ExecutionSettings
    agent_settings_json: str
    clock: Callable[[], float]
    queue: Queue
    journal: JournalStore
    contexts: Contexts
    tools: Tools
    log: Log
    outbox: Outbox
    factory: InstanceFactory
    statistics: RunStatistics
    models: Models
    abandoned: set[asyncio.Task[Any]] = field(default_factory=set)
    """Agents that did not stop when they were told to; nothing they do reaches the world."""


class Attempt:
    """Runs the agent and ends the run. It is the `World` of the contexts of its agents."""

    def __init__(
        self, run: ClaimedRun, workshop: Workshop, credential: asyncio.Future[Credential] | None = None
    ) -> None:
        self.run = run
        self.run_id, self.thread_id = run.run_id, run.thread_id
        self.factory = workshop.factory
        self.journal = RunJournal(run, workshop.journal, self)
        self.over = False
        self.finishing = False
        """The end is being written: a lease that is gone now is gone because of that."""
        self.user_waits = False
        """At the end: the user has other runs waiting, or this one goes on at once."""
        self.ended = asyncio.Event()
        """Set when nothing more comes of this attempt."""
        self._workshop = workshop
        self._credentials = Credentials(workshop.contexts, run, workshop.clock, credential)
        self._telling = Telling(run, workshop.log, workshop.outbox, self._credentials, self._on_telling_failure)
        self._told = self._told_deltas = 0
        self._asking = Asking(lambda: self.stop(Stop.ASKING))
        self._stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._stop_reason = ""
        self._given_up = domain.failed("", "")
        self._retry: Retry | None = None
        self._cancel_report: list[dict[str, str | bool]] = []
        self._thread_state: str | None = None
        self._new_thread_state: str | None = None
        self._allowed_seconds, self._deadline = self._time_limit()

    def _time_limit(self) -> tuple[float, float]:
        """How many seconds the run may work, and when it must be over, by the clock of the loop."""
        run, agent = self.run, self.factory.registry.classes.get(self.run.agent)
        limits = (run.timeout_seconds, agent.timeout_seconds if agent else None, self._workshop.settings.run_seconds)
        allowed = min(limit for limit in limits if limit is not None)
        left = allowed - run.elapsed_seconds
        if run.deadline is not None:
            left = min(left, run.deadline.timestamp() - self._workshop.clock())
        return allowed, asyncio.get_running_loop().time() + left

    def stop(self, why: Stop, reason: str = "") -> None:
        """Stops the agent. The first reason holds; whether this attempt may still end the run, its epoch decides."""
        if not self.over and not self._stopped.done():
            self._stop_reason = reason
            self._stopped.set_result(why)

    def doing(self) -> Sequence[Part]:
        """What the run does at this moment."""
        return self._asking.parts.now()

    async def work(self) -> None:
        """Runs the agent to its end, whatever that is, and tells the user. Raises nothing that an agent can cause."""
        logger = get_logger().bind(run_id=self.run_id, attempt=self.run.epoch, agent=self.run.agent)
        logger.info("run.started", tenant_id=self.run.tenant_id, user_id=self.run.user_id)
        try:
            outcome = await self._outcome()
            if outcome is None and self._stopped.result() is Stop.ASKING:
                outcome = await self._park()
            elif self._retry is not None and outcome is not None and not self._stopped.done():
                outcome = await self._begin_again(outcome, self._retry)
            if outcome is None:
                await self._telling.settle(0.0)
                logger.info(
                    "run.left", why=self._stopped.result().value if self._stopped.done() else "it is tried again"
                )
                return
            ended = await self._finish(outcome)
            logger.info("run.finished", state=str(outcome.state), reason=outcome.reason, ended=ended)
        finally:
            self._asking.close()
            self.ended.set()

    async def _outcome(self) -> Outcome | None:
        """How the run ends; None when it is not for this attempt to end it."""
        agent = asyncio.create_task(self._perform())
        seconds = max(0.0, self._deadline - asyncio.get_running_loop().time())
        ends: set[asyncio.Future[Any]] = {agent, self._stopped}
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if agent.done() and not agent.cancelled() and not self._stopped.done():
            return agent.result()
        self.over = True
        await self._halt(agent)
        if not self._stopped.done():
            return domain.timed_out(self._allowed_seconds)
        match self._stopped.result():
            case Stop.CANCELLED | Stop.REVOKED:
                return domain.cancelled(self._stop_reason)
            case Stop.REFUSED:
                return domain.failed("CONTEXT_REFUSED", self._stop_reason)
            case Stop.GIVEN_UP:
                return self._given_up
        return None

    async def _halt(self, agent: asyncio.Task[Outcome]) -> None:
        """Stops what the run does, and notes what has stopped. An agent may have begun tasks of its own."""
        before = self._asking.parts.now()
        agent.cancel()
        tasks = {agent, *_cancelled(before, agent)}
        seconds = self._workshop.settings.cancel_seconds
        stopped, running = await asyncio.wait(tasks, timeout=seconds)
        _forget_frames(stopped)
        for task in running:
            get_logger().warning("agent.abandoned", run_id=self.run_id, agent=self.run.agent)
            self._workshop.abandoned.add(task)
            task.add_done_callback(self._workshop.abandoned.discard)
        self._cancel_report = self._asking.parts.report(before, seconds)

    async def _perform(self) -> Outcome:
        """Runs the agent of the run and says how it ended. Whatever an agent raises ends here: it must not reach the loop."""
        try:
            await self._credentials.signed()
            await self.journal.open()
            self._begin()
            with self.part(self.factory.part_kind(self.run.agent), self.run.agent, ""):
                async with self.factory.instance(self.run.agent, self.memory_limit_mb) as agent:
                    result = await agent.run(LiveContext(self, self.run.agent), domain.from_json(self.run.input_json))
            await self.journal.close()
            return domain.succeeded(result)
        except ContextRefused as refusal:
            return _outcome_of(refusal)
        except AgentDied as death:
            return domain.died(death.message)
        except AgentError as error:
            await self._note_failure(error)
            # An author's own kind of AgentError may have left one of the two out.
            return domain.failed(getattr(error, "reason", ""), getattr(error, "message", str(error)))
        except asyncio.CancelledError:
            if self.over:
                raise
            return domain.failed("AGENT_CRASHED", "The agent cancelled itself.")
        except MemoryError:
            return domain.died("The agent has used up its memory.")
        except Exception as error:
            get_logger().exception("agent.crashed", run_id=self.run_id, agent=self.run.agent)
            await self._note_failure(error)
            name = type(error).__name__
            return domain.failed("AGENT_CRASHED", f"The agent crashed with {name}; its author finds more in the log.")
        except BaseException as error:
            # SystemExit and its like would end the process, and with it the runs of all other users.
            return domain.died(f"The agent died of {type(error).__name__}.")

    async def _note_failure(self, error: Exception) -> None:
        agent = self.factory.registry.classes.get(self.run.agent)
        self._retry = retry_of(agent, error, self.run.retries) if agent else None
        if self._retry is not None:
            await self.journal.flush()

    def _begin(self) -> None:
        started = events.event(f"{self.run_id}.started", "agent_started", self.run.agent, self.now(), pb.AgentStarted())
        self._telling.put(started)
        self._telling.start()

    @cached_property
    def memory_limit_mb(self) -> int:
        grant = user_context_pb2.SignedUserContext.FromString(self.run.grant)
        user = user_context_pb2.UserContext.FromString(grant.context)
        both = (user.limits.isolated_memory_mb, user.tenant_limits.isolated_memory_mb)
        return min(filter(None, both), default=0)

    def agent_settings(self) -> Mapping[str, JSON]:
        settings: dict[str, JSON] = json.loads(self._workshop.agent_settings_json)
        return settings

    def now(self) -> float:
        return self._workshop.clock()

    def latest_answer(self, seconds: float | None) -> float:
        most = self._workshop.settings.wait_seconds
        return self.now() + (most if seconds is None else min(max(seconds, 0.0), most))

    def part(self, kind: str, name: str, step_id: str) -> AbstractContextManager[None]:
        return self._asking.parts.part(kind, name, step_id)

    async def emit(self, event: pb.Event) -> None:
        # Not slowed down but ended: each event stays in the log of its user, and a run without end would fill that; each delta costs
        # the bus and all who read.
        settings = self._workshop.settings
        if event.partial_result.delta:
            self._told_deltas += 1
        else:
            self._told += 1
        if self._told > (most := settings.events_per_run):
            await self.give_up("TOO_MANY_EVENTS", f"The run has sent more than {most} events; tell less, or in parts.")
        if self._told_deltas > (most := settings.deltas_per_run):
            message = f"The run has sent more than {most} pieces of texts; send larger ones."
            await self.give_up("TOO_MANY_EVENTS", message)
        await self._telling.emit(event)

    async def call_tool(
        self, step_id: str, tool: str, arguments_json: str, consent: Answered | None, tell: Tell
    ) -> str:
        seconds = max(0.1, self._deadline - asyncio.get_running_loop().time())
        given = _consent(self.run, consent) if consent is not None else None

        async def execute(signed: bytes) -> str:
            return await self._workshop.tools.execute(signed, step_id, tool, arguments_json, seconds, given, tell)

        try:
            # tool-dispatch may be killed and come back: the same step is asked for again and has one effect.
            return await persist(lambda: self._credentials.call(execute), "ExecuteTool", self.run_id)
        except ContextRefused as refusal:
            await self._stop_here(_why(refusal), str(refusal))
        except CarrelError as error:
            if error.reason == "STALE_ATTEMPT":
                await self._stop_here(Stop.LOST)
            if error.reason == "STEP_REUSED":
                before = error.metadata.get("tool", tool)
                what = "with other arguments" if before == tool else f"and for the tool {before}"
                await self.disagree(self.run.agent, step_id, f"the tool {tool} now {what} before")
            raise _tool_error(error) from None

    @property
    def models(self) -> Sequence[str]:
        return self._workshop.models.names

    async def call_model(self, model: str, request: Mapping[str, JSON], message_id: str, write: Write) -> JSON:
        seconds = max(0.1, self._deadline - asyncio.get_running_loop().time())
        return await self._workshop.models.call(model, request, message_id, write, seconds)

    async def ask(self, ask: Ask) -> NoReturn:
        await self.journal.flush()
        await self._asking.ask(ask)

    async def give_up(self, reason: str, message: str) -> NoReturn:
        self._given_up = domain.failed(reason, message)
        await self._stop_here(Stop.GIVEN_UP)

    async def disagree(self, agent: str, place: str, what: str) -> NoReturn:
        known = self.factory.registry.classes.get(self.run.agent)
        then, now = self.run.agent_version, known.version if known else ""
        versions = f" (version {then} then, {now} now)" if then != now else ""
        message = f"At step {place}, {agent} asks for {what}: its code has changed{versions}, or it does not do the same each time."
        await self.give_up("JOURNAL_MISMATCH", message)

    async def leave(self, standing: Standing) -> NoReturn:
        """What the journal said to a write: the user has cancelled the run, or another attempt has it."""
        if standing.state == "CANCELLING":
            await self._stop_here(Stop.CANCELLED, standing.cancel_reason)
        await self._stop_here(Stop.LOST)

    async def _stop_here(self, why: Stop, reason: str = "") -> NoReturn:
        """Stops the run from within its agent, and keeps the agent where it is until that has happened."""
        self.stop(why, reason)
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable")

    async def thread_state(self) -> str:
        if self._new_thread_state is not None:
            return self._new_thread_state
        if self._thread_state is None:
            queue = self._workshop.queue
            self._thread_state = await persist(lambda: queue.thread_state(self.run), "thread_state", self.run_id)
        return self._thread_state

    def set_thread_state(self, state_json: str) -> None:
        self._new_thread_state = state_json

    def _on_telling_failure(self, error: Exception) -> None:
        if isinstance(error, ContextRefused):
            self.stop(_why(error), str(error))
        else:
            self.stop(Stop.LOST)

    def unsent(self) -> list[pb.Event]:
        """What the user has not been told yet, as far as is known, but for what is in the outbox already."""
        return self._telling.unsent()

    async def _park(self) -> Outcome | None:
        """Lets go of the run until its user answers; returns how it ends when its user has cancelled it meanwhile."""
        self.finishing = True
        told = [events.asked(self.run_id, self.now(), ask) for ask in self._asking.asked if ask.prompt]
        unsent = [*self.unsent(), *told]
        rows = [event.SerializeToString() for event in unsent]
        store, asked = self._workshop.journal, self._asking.asked
        parked = await persist(lambda: store.park(self.run, asked, rows), "park", self.run_id)
        if parked.parked == "CANCELLING":
            return domain.cancelled(parked.reason)
        if parked.parked in ("WAITING", "QUEUED"):
            self.user_waits = True  # a place is free
            await self._telling.tell([*await self._telling.settle(_SETTLE_SECONDS), *told], parked.position, len(rows))
        return None

    async def _begin_again(self, outcome: Outcome, policy: Retry) -> Outcome | None:
        """Has the run tried again after a pause; returns how it ends when it is not to be."""
        self.over = self.finishing = True
        retry = self.run.retries + 1
        pause = policy.pause_seconds(retry)
        told = events.retried(self.run_id, self.run.agent, self.now(), outcome, retry, pause)
        rows = [event.SerializeToString() for event in (*self.unsent(), told)]
        queue = self._workshop.queue
        retried = await persist(lambda: queue.retry(self.run, pause, rows), "retry", self.run_id)
        if retried.ended == "CANCELLING":
            return domain.cancelled(retried.reason)
        if retried.ended == "RETRIED":
            self.user_waits = True
            await self._telling.tell([*await self._telling.settle(_SETTLE_SECONDS), told], retried.position, len(rows))
        return None

    async def _finish(self, outcome: Outcome) -> str:
        """Ends the run in one commit together with what its user has not been told yet; then tells it."""
        self.over = self.finishing = True
        unsent = self.unsent()
        ended = await self._commit(outcome, unsent)
        if ended.ended == "CANCELLING":
            outcome = domain.cancelled(ended.reason)
            ended = await self._commit(outcome, unsent)
        self.user_waits = ended.waiting
        late = await self._telling.settle(_SETTLE_SECONDS)
        if ended.ended == "FINISHED":
            run = self.run
            self._workshop.statistics.ended(run.tenant_id, run.user_id, run.agent, outcome.state, ended.worked_seconds)
            last = events.final(self.run_id, self.run.agent, self.now(), outcome)
            if ended.overtakes:
                self._workshop.outbox.kick()
            else:
                await self._telling.tell([*late, last], ended.position, len(unsent) + 1)
        return ended.ended

    async def _commit(self, outcome: Outcome, unsent: Sequence[pb.Event]) -> Ended:
        last = events.final(self.run_id, self.run.agent, self.now(), outcome)
        rows = [event.SerializeToString() for event in (*unsent, last)]
        report = json.dumps(self._cancel_report) if outcome.state is State.CANCELLED else None

        async def finish() -> Ended:
            return await self._workshop.queue.finish(
                self.run, outcome, rows, thread_state=self._new_thread_state, cancel_report=report
            )

        return await persist(finish, "finish", self.run_id)


def _cancelled(parts: Sequence[Part], agent: asyncio.Task[Outcome]) -> set[asyncio.Task[Any]]:
    """The tasks, beside the agent's own, in which something was being done; they are cancelled."""
    tasks = {part.task for part in parts if part.task is not None and part.task is not agent and not part.task.done()}
    for task in tasks:
        task.cancel()
    return tasks


def _forget_frames(stopped: Iterable[asyncio.Task[Any]]) -> None:
    """A cancelled task keeps the frames in which it was cancelled until it is asked for its result, and they keep the run's contexts in
    memory: in a cycle, which would be found only when the process next looks at all that it has."""
    for task in stopped:
        with suppress(BaseException):
            task.result()


def _consent(run: ClaimedRun, wait: Answered) -> Consent:
    return Consent(wait.wait_id, wait.arguments_digest, run.user_id, wait.resolve_time, consent_until(wait))


def _tool_error(error: CarrelError) -> Exception:
    """What an agent is told of a call that was refused or failed."""
    if error.reason == "APPROVAL_REQUIRED":
        known = error.metadata
        return ConsentRequired(known["arguments_digest"], float(known["expire_seconds"]), known.get("prompt", ""))
    reason = error.metadata.get("tool_reason") or error.reason
    again = error.reason == "TOOL_FAILED" and error.metadata.get("replayed") == "true"
    return (ReplayedFailure if again else ToolError)(reason, error.message)


def _why(refusal: ContextRefused) -> Stop:
    return Stop.REVOKED if refusal.error.reason == "CONTEXT_REVOKED" else Stop.REFUSED


def _outcome_of(refusal: ContextRefused) -> Outcome:
    message = str(refusal)
    return domain.cancelled(message) if _why(refusal) is Stop.REVOKED else domain.failed("CONTEXT_REFUSED", message)
