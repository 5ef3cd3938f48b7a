"""Starts what schedules have due: each occurrence once, by whichever process takes it first.

The run's request_id is made of the schedule and the occurrence. So a process that dies between the start and its note of it is
followed by another that starts the same run again, which is the one that is there already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from carrel.api.context.v1 import user_context_pb2
from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import UserSessions, database_errors
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_chassis.logs import get_logger
from carrel_chassis.signing import decode_context
from carrel_execution.clients import Contexts
from carrel_execution.domain import BusyThread
from carrel_execution.owner import owner_alone
from carrel_execution.runs.operations import Operations
from carrel_execution.runs.start import StartRequest
from carrel_execution.schedules.cron import next_time
from carrel_execution.schedules.repository import Schedules
from carrel_execution.schedules.schedule import CHECK_EVERY

_BATCH = 50
_AT_ONCE = 4
"""Within the number of database sessions that a user may have: all that is due may be one user's."""
_HOLD = timedelta(seconds=30)
"""Longer than a start takes: then another process may try. A start that could not be made at all is tried again after this."""
_INTERVAL_SECONDS = 1.0
_SCOPE = "runs.start"
_NOT_THE_USERS = ("SERVICE_IDENTITY_INVALID", "SERVICE_NOT_ALLOWED")
"""What the context service says when it is this service that it refuses."""

TAKE_DUE_SCHEDULES = text("""
    UPDATE schedule SET hold_until = :hold_until
    FROM (
        SELECT tenant_id, user_id, schedule_id FROM schedule
        WHERE NOT paused AND least(next_time, check_time) <= :now AND hold_until <= :now
        ORDER BY least(next_time, check_time) LIMIT :count FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE schedule.tenant_id = due.tenant_id AND schedule.user_id = due.user_id AND schedule.schedule_id = due.schedule_id
    RETURNING schedule.tenant_id, schedule.user_id, schedule.schedule_id, cron, time_zone, agent, input_json, thread_id, busy_thread,
        priority, grant_bytes, next_time
""")


@dataclass(frozen=True, slots=True)
class DueSchedule:
    """A schedule that is to start a run, or whose session is to be asked about again."""

    tenant_id: str
    user_id: str
    schedule_id: str
    cron: str
    time_zone: str
    agent: str
    input_json: str
    thread_id: str
    busy_thread: str
    priority: int
    grant: bytes
    due_time: datetime


class DueSchedules:
    """Looks each second for what is due. The clock is handed in: a test need not wait for a minute."""

    def __init__(
        self,
        runner: Engine,
        sessions: UserSessions,
        runs: Operations,
        contexts: Contexts,
        clock: Callable[[], float],
    ) -> None:
        self._runner = runner
        self._sessions = sessions
        self._runs = runs
        self._contexts = contexts
        self._clock = clock

    async def run(self) -> None:
        """For ever."""
        while True:
            taken = 0
            try:
                taken = await self.start_due()
            except CarrelError as error:
                get_logger().warning("schedules.wait", reason=error.reason)
            except Exception:
                get_logger().exception("schedules.failed")
            if taken < _BATCH:
                await asyncio.sleep(_INTERVAL_SECONDS)

    async def start_due(self) -> int:
        """Starts what is due now, a batch at most; returns how many schedules that were."""
        now = self._now()
        values = {"now": now, "hold_until": now + _HOLD, "count": _BATCH}
        async with database_errors(), self._runner.connect() as connection:
            due = [DueSchedule(*row) for row in await connection.execute(TAKE_DUE_SCHEDULES, values)]
        turns = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._go_on(schedule, turns) for schedule in due))
        return len(due)

    async def _go_on(self, due: DueSchedule, turns: asyncio.Semaphore) -> None:
        """One schedule is no other's business, whatever happens to it."""
        async with turns:
            try:
                await self._start(due)
            except CarrelError as error:
                get_logger().warning("schedule.waits", schedule_id=due.schedule_id, reason=error.reason)
            except Exception:
                get_logger().exception("schedule.failed", schedule_id=due.schedule_id)

    async def _start(self, due: DueSchedule) -> None:
        """Starts its run if it is due, and notes what came of that; otherwise only looks whether its session still counts."""
        now = self._now()
        is_due = due.due_time <= now
        following = next_time(due.cron, due.time_zone, now) if is_due else due.due_time
        run_id, problem = None, "" if is_due else None
        try:
            user, signed = await self._context(due)
            if is_due:
                _check_right(user)
                run_id = (await self._runs.start_run(user, new_id("call"), signed, _request(due))).run_id
        except CarrelError as error:
            if _passes(error):
                raise
            problem = error.message
            if error.kind is Kind.UNAUTHENTICATED:
                following = None  # its session is no more; whoever lets it go on does so in a session of their own
        await self._note(due, following, run_id, problem)

    async def _context(self, due: DueSchedule) -> tuple[UserContext, bytes]:
        """The context of what the schedule starts: its session's, as far as that is still worth something."""
        signed = await self._contexts.for_schedule(due.grant)
        user = decode_context(user_context_pb2.SignedUserContext.FromString(signed).context)
        if user.owner != (due.tenant_id, due.user_id):
            raise CarrelError(
                Kind.UNAUTHENTICATED, "CONTEXT_MALFORMED", "The schedule was made with another user's context."
            )
        return user, signed

    async def _note(
        self, due: DueSchedule, following: datetime | None, run_id: str | None, problem: str | None
    ) -> None:
        owner = owner_alone(due.tenant_id, due.user_id)
        async with self._sessions.open(owner, new_id("call")) as connection:
            noted = await Schedules(connection, owner).went_on(
                due.schedule_id,
                due.due_time,
                next_time=following,
                check_time=self._now() + CHECK_EVERY,
                last_run_id=run_id,
                last_error=problem,
            )
        get_logger().info(
            "schedule.went_on", schedule_id=due.schedule_id, run_id=run_id, problem=problem, changed_meanwhile=not noted
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _check_right(user: UserContext) -> None:
    if _SCOPE not in user.scopes:
        message = f"You may not start runs any more: that takes the scope {_SCOPE}."
        raise CarrelError(Kind.DENIED, "SCOPE_MISSING", message, metadata={"scope": _SCOPE})


def _request(due: DueSchedule) -> StartRequest:
    return StartRequest(
        request_id=f"{due.schedule_id}.{int(due.due_time.timestamp())}",
        agent=due.agent,
        input_json=due.input_json,
        thread_id=due.thread_id,
        busy_thread=BusyThread(due.busy_thread),
        priority=due.priority,
        schedule_id=due.schedule_id,
    )


def _passes(error: CarrelError) -> bool:
    """Whether the start can be made later as it is: somebody whom it needs is away, or does not know us. That is not its user's fault."""
    away = error.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.INTERNAL) and error.reason != "AGENT_BREAKER_OPEN"
    return away or error.reason in _NOT_THE_USERS
