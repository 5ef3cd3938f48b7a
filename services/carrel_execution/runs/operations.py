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
from carrel_execution import domain
from carrel_execution.agents.registry import AgentRegistry
from carrel_execution.attempt import events
from carrel_execution.domain import ClaimedRun, ListRequest, Run, State
from carrel_execution.models.usage import ModelUsage, usage_of_run
from carrel_execution.queue.outbox import Outbox
from carrel_execution.queue.worker import Place, Worker
from carrel_execution.runs.repository import Runs
from carrel_execution.runs.start import (
    Accepted,
    Offer,
    QueueLimits,
    Refusal,
    ServiceRules,
    StartRequest,
    check_schema,
    own_thread,
    refused,
)
from carrel_execution.settings import ExecutionSettings

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
        self._rules = ServiceRules(
            running=settings.running_runs_per_user,
            lease_seconds=settings.lease_seconds,
            disconnect_seconds=settings.disconnect_seconds,
            breaker_failures=settings.breaker_failures,
            breaker_seconds=settings.breaker_seconds,
        )

    async def start_run(self, user: UserContext, call_id: str, grant: bytes, request: StartRequest) -> Run:
        """Accepts a run, or returns the one that this request_id has started. `grant` is the caller's signed context."""
        request = self.checked(user, request)
        run_id = new_id("run")
        place = self._worker.place(run_id) if request.earliest_start_time is None else None
        if place is None:
            accepted = await self._accept(user, call_id, grant, request, run_id, None)
        else:
            with place:
                accepted = await self._accept(user, call_id, grant, request, run_id, place)
        await self._wake(accepted)
        return accepted.run

    def checked(self, user: UserContext, request: StartRequest) -> StartRequest:
        """The request as it is meant for this user: AGENT_NOT_FOUND, or INVALID_ARGUMENT for input that the agent does not take."""
        if request.agent not in self._registry.classes:
            raise domain.agent_not_found(request.agent, self._registry.names)
        check_schema(request.agent, request.input_json, self._registry.input_schema(request.agent))
        request.check_times(datetime.fromtimestamp(self._clock(), UTC))
        return _in_thread_of(user, request)

    async def _accept(
        self, user: UserContext, call_id: str, grant: bytes, request: StartRequest, run_id: str, place: Place | None
    ) -> Accepted:
        """With a place, the run begins in it if nobody has to wait for that; its context is fetched while it is being accepted."""
        queued = events.queued(run_id, request.agent, self._clock()).SerializeToString()
        thread_id = request.thread_id or own_thread(run_id)
        credential = self._worker.fetch_credential(grant, run_id, thread_id, request.agent) if place else None
        try:
            async with self._sessions.open(user, call_id) as connection:
                accepted = await Runs(connection, user).accept(
                    request,
                    run_id,
                    grant=grant,
                    event=queued,
                    limits=self._limits(user),
                    rules=self._rules,
                    offer=Offer(self._worker.name, self._registry.version(request.agent)) if place else None,
                )
            if isinstance(accepted, Refusal):
                raise refused(accepted, request, datetime.fromtimestamp(self._clock(), UTC))
            if accepted.digest != request.digest:
                raise domain.request_id_reused(request.request_id)
            if place is not None and accepted.direct:
                place.begin(_claimed(user, accepted.run, grant, queued), credential)
                credential = None
        finally:
            if credential is not None:
                credential.cancel()
        return accepted

    def _limits(self, user: UserContext) -> QueueLimits:
        return QueueLimits(
            queued=user.limits.queued_runs or self._settings.queued_runs_per_user,
            running=user.limits.running_runs,
            tenant_queued=user.tenant_limits.queued_runs,
            tenant_running=user.tenant_limits.running_runs,
            time=datetime.fromtimestamp(user.issue_time, UTC),
            weight=user.limits.weight or 1,
            tenant_weight=user.tenant_limits.weight,
        )

    async def _wake(self, accepted: Accepted) -> None:
        for run_id in accepted.interrupted:
            await self._hint_running(run_id, f"interrupted by run {accepted.run.run_id}")
        if accepted.ready:
            await self.wake()

    async def wake(self) -> None:
        """A run can be claimed: by this process if it has room, or else by another."""
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

    async def model_usage(self, user: UserContext, call_id: str, run_id: str) -> list[ModelUsage]:
        """What a run has asked of models so far; nothing for one that the user does not have."""
        async with self._sessions.open(user, call_id) as connection:
            return await usage_of_run(connection, user, run_id)

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
        async with self._sessions.open(user, call_id) as connection:
            found = await Runs(connection, user).cancel(run_id, reason)
        if found is None:
            raise domain.run_not_found(run_id)
        run, _ = found
        if run.state is State.CANCELLED:
            self._outbox.kick()
            self._worker.wake()  # the claim may have passed the user by while the slot was locked
        elif run.state is State.CANCELLING:
            await self._hint_running(run_id, run.cancel_reason)
        return run

    async def _hint_running(self, run_id: str, reason: str) -> None:
        """Tells whoever works on a run that it is to stop."""
        if not self._worker.cancel(run_id, reason):
            await self._bus.publish(CANCEL_SUBJECT, run_id.encode())

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


def _claimed(user: UserContext, run: Run, grant: bytes, queued_event: bytes) -> ClaimedRun:
    """A run that was accepted and taken in one, as its worker wants it."""
    return ClaimedRun(
        tenant_id=user.tenant_id,
        user_id=user.user_id,
        run_id=run.run_id,
        thread_id=run.thread_id,
        agent=run.agent,
        epoch=run.epoch,
        input_json=run.input_json,
        grant=grant,
        unsent=(queued_event,),
        unsent_position=0,
        elapsed_seconds=0.0,
        more=False,
        shares_places=False,
        timeout_seconds=run.timeout_seconds,
        deadline=run.deadline,
        retries=0,
        agent_version=run.agent_version,
    )
