"""One attempt of one run, from its claim to its end. Everything in it belongs to this run alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from carrel.agent import JSON, AgentError, ToolError
from carrel.api.events.v1 import event_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_execution import domain, events
from carrel_execution.clients import Contexts, Log, Tools, passes, persist
from carrel_execution.credentials import ContextRefused, Credentials
from carrel_execution.domain import ClaimedRun, Outcome
from carrel_execution.emitter import Emitter
from carrel_execution.factory import InstanceFactory
from carrel_execution.outbox import Outbox
from carrel_execution.queue import Ended, Queue, Sent
from carrel_execution.run_context import LiveContext
from carrel_execution.settings import ExecutionSettings

_SETTLE_SECONDS = 0.25
_LAST_APPEND_SECONDS = 2.0


class Stop(Enum):
    """Why an attempt ends before its agent does."""

    CANCELLED = "its user has asked for it"
    REFUSED = "its user may no longer act"
    REVOKED = "its user, session or run has been revoked"
    LOST = "another attempt has taken over"
    GIVEN_BACK = "this process stops, another goes on with it"


@dataclass(frozen=True)
class Workshop:
    """What the attempts of a process share; none of it belongs to a user."""

    settings: ExecutionSettings
    agent_settings_json: str
    clock: Callable[[], float]
    queue: Queue
    contexts: Contexts
    tools: Tools
    log: Log
    outbox: Outbox
    factory: InstanceFactory
    abandoned: set[asyncio.Task[Outcome]] = field(default_factory=set)
    """Agents that did not stop when they were told to; nothing they do reaches the world."""


class Attempt:
    """Runs the agent and ends the run. It is the `World` of the contexts of its agents."""

    def __init__(self, run: ClaimedRun, workshop: Workshop) -> None:
        self.run = run
        self.run_id, self.thread_id = run.run_id, run.thread_id
        self.factory = workshop.factory
        self.over = False
        self.finishing = False
        """The end is being written: a lease that is gone now is gone because of that."""
        self.user_waits = False
        """At the end: the user has other runs waiting."""
        self._workshop = workshop
        self._credentials = Credentials(workshop.contexts, run, workshop.clock)
        self._emitter = Emitter(self._send, self._on_send_failure)
        if run.queued_event:
            self._emitter.put(pb.Event.FromString(run.queued_event))
        self._stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._stop_reason = ""
        self._deadline = asyncio.get_running_loop().time() + workshop.settings.run_seconds - run.elapsed_seconds

    def stop(self, why: Stop, reason: str = "") -> None:
        """Stops the agent. The first reason holds; whether this attempt may still end the run, its epoch decides."""
        if not self.over and not self._stopped.done():
            self._stop_reason = reason
            self._stopped.set_result(why)

    async def work(self) -> None:
        """Runs the agent to its end, whatever that is, and tells the user. Raises nothing that an agent can cause."""
        logger = get_logger().bind(run_id=self.run_id, attempt=self.run.epoch, agent=self.run.agent)
        logger.info("run.started", tenant_id=self.run.tenant_id, user_id=self.run.user_id)
        outcome = await self._outcome()
        if outcome is None:
            await self._emitter.settle(0.0)
            logger.info("run.left", why=self._stopped.result().value)
            return
        ended = await self._finish(outcome)
        logger.info("run.finished", state=str(outcome.state), reason=outcome.reason, ended=ended)

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
            return domain.timed_out(self._workshop.settings.run_seconds)
        match self._stopped.result():
            case Stop.CANCELLED:
                return domain.cancelled(self._stop_reason)
            case Stop.REFUSED:
                return domain.failed("CONTEXT_REFUSED", self._stop_reason)
            case Stop.REVOKED:
                return domain.cancelled(self._stop_reason)
        return None

    async def _halt(self, agent: asyncio.Task[Outcome]) -> None:
        agent.cancel()
        done, _ = await asyncio.wait({agent}, timeout=self._workshop.settings.cancel_seconds)
        if not done:
            get_logger().warning("agent.abandoned", run_id=self.run_id, agent=self.run.agent)
            self._workshop.abandoned.add(agent)
            agent.add_done_callback(self._workshop.abandoned.discard)

    async def _perform(self) -> Outcome:
        """Runs the agent of the run and says how it ended. Whatever an agent raises ends here: it must not reach the loop."""
        try:
            await self._credentials.signed()
            self._begin()
            with self.factory.instance(self.run.agent) as agent:
                result = await agent.run(LiveContext(self, self.run.agent), domain.from_json(self.run.input_json))
            return domain.succeeded(result)
        except ContextRefused as refusal:
            return _outcome_of(refusal)
        except AgentError as error:
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
            name = type(error).__name__
            return domain.failed("AGENT_CRASHED", f"The agent crashed with {name}; its author finds more in the log.")
        except BaseException as error:
            # SystemExit and its like would end the process, and with it the runs of all other users.
            return domain.died(f"The agent died of {type(error).__name__}.")

    def _begin(self) -> None:
        started = events.event(f"{self.run_id}.started", "agent_started", self.run.agent, self.now(), pb.AgentStarted())
        self._emitter.put(started)
        self._emitter.start()

    def agent_settings(self) -> Mapping[str, JSON]:
        settings: dict[str, JSON] = json.loads(self._workshop.agent_settings_json)
        return settings

    def now(self) -> float:
        return self._workshop.clock()

    async def emit(self, event: pb.Event) -> None:
        await self._emitter.emit(event)

    async def call_tool(self, step_id: str, tool: str, arguments_json: str) -> str:
        seconds = max(0.1, self._deadline - asyncio.get_running_loop().time())

        async def execute(signed: bytes) -> str:
            return await self._workshop.tools.execute(signed, step_id, tool, arguments_json, seconds)

        try:
            # tool-dispatch may be killed and come back: the same step is asked for again and has one effect.
            return await persist(lambda: self._credentials.call(execute), "ExecuteTool", self.run_id)
        except ContextRefused as refusal:
            await self._stop_here(_why(refusal), str(refusal))
        except CarrelError as error:
            if error.reason == "STALE_ATTEMPT":
                await self._stop_here(Stop.LOST)
            raise ToolError(error.metadata.get("tool_reason") or error.reason, error.message) from None
        raise AssertionError("unreachable")

    async def _stop_here(self, why: Stop, reason: str = "") -> None:
        """Stops the run from within its agent, and keeps the agent where it is until that has happened."""
        self.stop(why, reason)
        await asyncio.get_running_loop().create_future()

    async def _send(self, batch: Sequence[pb.Event]) -> None:
        """Returns when the batch is in the log, or can never be because there is something wrong with it."""
        try:
            await persist(lambda: self._append(batch), "AppendEvents", self.run_id)
        except CarrelError as error:
            if error.reason == "STALE_ATTEMPT":
                raise
            get_logger().error("events.refused", run_id=self.run_id, reason=error.reason, count=len(batch))
        if batch[0].type == "run_queued":
            self._workshop.outbox.sent(Sent(self.run.tenant_id, self.run.user_id, self.run_id, 0))

    async def _append(self, batch: Sequence[pb.Event]) -> None:
        await self._credentials.call(lambda signed: self._workshop.log.append(signed, batch))

    def _on_send_failure(self, error: Exception) -> None:
        if isinstance(error, ContextRefused):
            self.stop(_why(error), str(error))
        else:
            self.stop(Stop.LOST)

    async def _finish(self, outcome: Outcome) -> str:
        """Ends the run in one commit together with what its user has not been told yet; then tells it."""
        self.over = self.finishing = True
        unsent = [event for event in self._emitter.seal() if event.type != "run_queued"]  # that one is in the outbox
        ended = await self._commit(outcome, unsent)
        if ended.ended == "CANCELLING":
            outcome = domain.cancelled(ended.reason)
            ended = await self._commit(outcome, unsent)
        self.user_waits = ended.waiting
        late = await self._emitter.settle(_SETTLE_SECONDS)
        if ended.ended == "FINISHED":
            last = events.final(self.run_id, self.run.agent, self.now(), outcome)
            await self._tell([*late, last], len(unsent) + 1)
        return ended.ended

    async def _commit(self, outcome: Outcome, unsent: Sequence[pb.Event]) -> Ended:
        last = events.final(self.run_id, self.run.agent, self.now(), outcome)
        rows = [event.SerializeToString() for event in (*unsent, last)]
        return await persist(lambda: self._workshop.queue.finish(self.run, outcome, rows), "finish", self.run_id)

    async def _tell(self, last: Sequence[pb.Event], position: int) -> None:
        """Sends the last events at once. If that fails, the relay sends them: they are in the outbox."""
        run = self.run
        try:
            for batch in events.batches(last):
                await self._credentials.call(
                    lambda signed, batch=batch: self._workshop.log.append(signed, batch, _LAST_APPEND_SECONDS)  # type: ignore[misc]
                )
        except (CarrelError, ContextRefused) as error:
            later = not isinstance(error, CarrelError) or passes(error)
            get_logger().warning("events.left_to_relay", run_id=run.run_id, error=str(error), later=later)
            return
        self._workshop.outbox.sent(Sent(run.tenant_id, run.user_id, run.run_id, position))


def _why(refusal: ContextRefused) -> Stop:
    return Stop.REVOKED if refusal.error.reason == "CONTEXT_REVOKED" else Stop.REFUSED


def _outcome_of(refusal: ContextRefused) -> Outcome:
    message = str(refusal)
    return domain.cancelled(message) if _why(refusal) is Stop.REVOKED else domain.failed("CONTEXT_REFUSED", message)
