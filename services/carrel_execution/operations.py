"""What agent-execution does for its callers: one method for each RPC, each one transaction of one user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from carrel.agent import Agent
from carrel_chassis.bus import Bus
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_execution import domain, events
from carrel_execution.domain import FullQueue, ListRequest, QueueLimits, Run, StartRequest, State
from carrel_execution.outbox import Outbox
from carrel_execution.registry import AgentRegistry
from carrel_execution.repository import Runs
from carrel_execution.settings import ExecutionSettings
from carrel_execution.worker import Worker

WAKE_SUBJECT = "carrel.runs.wake"
"""Told to the other processes when this one has no room for what it has accepted. The payload is empty."""
CANCEL_SUBJECT = "carrel.runs.cancel"
"""Told to the other processes when a run is to be cancelled that this one does not hold. The payload is the run's id."""


class Operations:
    """The rules of runs, as seen from outside."""

    def __init__(
        self,
        sessions: UserSessions,
        registry: AgentRegistry,
        settings: ExecutionSettings,
        *,
        worker: Worker,
        outbox: Outbox,
        bus: Bus,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._registry = registry
        self._settings = settings
        self._worker = worker
        self._outbox = outbox
        self._bus = bus
        self._clock = clock

    async def start_run(self, user: UserContext, call_id: str, grant: bytes, request: StartRequest) -> Run:
        """Accepts a run, or returns the one that this request_id has started. `grant` is the caller's signed context."""
        if request.agent not in self._registry.classes:
            raise domain.agent_not_found(request.agent, self._registry.names)
        request = _in_thread_of(user, request)
        run_id = new_id("run")
        queued = events.queued(run_id, request.agent, self._clock()).SerializeToString()
        async with self._sessions.open(user, call_id) as connection:
            accepted = await Runs(connection, user).accept(
                request,
                run_id,
                request.thread_id or new_id("thread"),
                grant=grant,
                event=queued,
                limits=self._limits(user),
            )
        if isinstance(accepted, FullQueue):
            raise domain.queue_full(accepted)
        run, digest = accepted
        if digest != request.digest:
            raise domain.request_id_reused(request.request_id)
        await self._wake(run)
        return run

    def _limits(self, user: UserContext) -> QueueLimits:
        return QueueLimits(
            queued=user.limits.queued_runs or self._settings.queued_runs_per_user,
            running=user.limits.running_runs,
            tenant_queued=user.tenant_limits.queued_runs,
            tenant_running=user.tenant_limits.running_runs,
            time=datetime.fromtimestamp(user.issue_time, UTC),
        )

    async def _wake(self, run: Run) -> None:
        if run.state is not State.QUEUED:
            return
        if self._worker.has_room:
            self._worker.wake()
        else:
            await self._bus.publish(WAKE_SUBJECT, b"")

    async def get_run(self, user: UserContext, call_id: str, run_id: str) -> Run:
        """The run with its input and result; RUN_NOT_FOUND."""
        check_id(run_id, "run_id")
        async with self._sessions.open(user, call_id) as connection:
            run = await Runs(connection, user).get(run_id)
        if run is None:
            raise domain.run_not_found(run_id)
        return run

    async def list_runs(self, user: UserContext, call_id: str, request: ListRequest) -> tuple[list[Run], str]:
        """A page of runs, newest first, and the token of the next page, "" on the last."""
        async with self._sessions.open(user, call_id) as connection:
            runs, more = await Runs(connection, user).list(request)
        return runs, request.token_after(runs[-1]) if more else ""

    async def cancel_run(self, user: UserContext, call_id: str, run_id: str, reason: str) -> Run:
        """Asks a run to stop, and returns it as it is then. Safe to repeat; RUN_NOT_FOUND."""
        check_id(run_id, "run_id")
        if len(reason) > domain.MAX_REASON_CHARACTERS:
            raise invalid("reason", f"reason has {len(reason)} characters; it may have {domain.MAX_REASON_CHARACTERS}.")
        reason = domain.clean(reason, domain.MAX_REASON_CHARACTERS)
        last = events.final(run_id, "", self._clock(), domain.cancelled(reason)).SerializeToString()
        async with self._sessions.open(user, call_id) as connection:
            run = await Runs(connection, user).cancel(run_id, reason, last)
        if run is None:
            raise domain.run_not_found(run_id)
        await self._hint_cancel(run)
        return run

    async def _hint_cancel(self, run: Run) -> None:
        if run.state is State.CANCELLED:
            self._outbox.kick()
            self._worker.wake()  # the claim may have passed the user by while the slot was locked
        elif run.state is State.CANCELLING and not self._worker.cancel(run.run_id, run.cancel_reason):
            await self._bus.publish(CANCEL_SUBJECT, run.run_id.encode())

    def list_agents(self) -> Sequence[type[Agent]]:
        """The classes of all agents, by name."""
        return tuple(self._registry.classes.values())


def _in_thread_of(user: UserContext, request: StartRequest) -> StartRequest:
    """A context that belongs to a thread starts runs in that thread only."""
    if not user.thread_id or request.thread_id == user.thread_id:
        return request
    if request.thread_id:
        message = f"The context belongs to the thread {user.thread_id}; start the run there, or with another context."
        raise CarrelError(Kind.DENIED, "WIDENING_REFUSED", message, metadata={"field": "thread_id"})
    return replace(request, thread_id=user.thread_id)
