"""What agent-execution does for callers with schedules: one method for each RPC, each one transaction of one user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_chassis.pages import Page
from carrel_execution import domain
from carrel_execution.runs.operations import Operations
from carrel_execution.schedules import schedule
from carrel_execution.schedules.cron import check_cron
from carrel_execution.schedules.repository import Schedules
from carrel_execution.schedules.schedule import CHECK_EVERY, Schedule, ScheduleRequest


class ScheduleOperations:
    """The rules of schedules. `most` is how many a user may have."""

    def __init__(self, sessions: UserSessions, runs: Operations, *, most: int, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._runs = runs
        self._most = most
        self._clock = clock

    async def create(self, user: UserContext, call_id: str, grant: bytes, request: ScheduleRequest) -> Schedule:
        """A new schedule, or the one that this request made before. `grant` is the caller's signed context."""
        _check_session(user)
        request = replace(request, start=self._runs.checked(user, request.start))
        now = self._now()
        due = check_cron(request.cron, request.time_zone, now)
        async with self._sessions.open(user, call_id) as connection:
            added = await Schedules(connection, user).add(
                request,
                new_id("schedule"),
                grant=grant,
                next_time=due,
                check_time=now + CHECK_EVERY,
                most=self._most,
            )
        if added is None:
            raise schedule.too_many_schedules(self._most)
        made, digest = added
        if digest != request.digest:
            raise domain.request_id_reused(request.start.request_id)
        return made

    async def get(self, user: UserContext, call_id: str, schedule_id: str) -> Schedule:
        """The schedule; SCHEDULE_NOT_FOUND."""
        check_id(schedule_id, "schedule_id")
        async with self._sessions.open(user, call_id) as connection:
            found = await Schedules(connection, user).get(schedule_id)
        if found is None:
            raise schedule.schedule_not_found(schedule_id)
        return found

    async def list(self, user: UserContext, call_id: str, page: Page) -> tuple[Sequence[Schedule], str]:
        """A page of schedules, newest first, and the token of the next page, "" on the last."""
        async with self._sessions.open(user, call_id) as connection:
            found, more = await Schedules(connection, user).list(page)
        return found, page.token_after(found[-1].create_time, found[-1].schedule_id) if more else ""

    async def pause(self, user: UserContext, call_id: str, schedule_id: str) -> Schedule:
        """It starts nothing more; SCHEDULE_NOT_FOUND."""
        check_id(schedule_id, "schedule_id")
        async with self._sessions.open(user, call_id) as connection:
            found = await Schedules(connection, user).pause(schedule_id)
        if found is None:
            raise schedule.schedule_not_found(schedule_id)
        return found

    async def resume(self, user: UserContext, call_id: str, grant: bytes, schedule_id: str) -> Schedule:
        """It goes on from now, in the caller's session. One that was not paused stays as it is; SCHEDULE_NOT_FOUND."""
        _check_session(user)
        check_id(schedule_id, "schedule_id")
        now = self._now()
        async with self._sessions.open(user, call_id) as connection:
            schedules = Schedules(connection, user)
            found = await schedules.get(schedule_id)
            if found is not None and found.paused:
                due = check_cron(found.cron, found.time_zone, now)
                resumed = await schedules.resume(schedule_id, grant=grant, next_time=due, check_time=now + CHECK_EVERY)
                found = resumed or await schedules.get(schedule_id)
        if found is None:
            raise schedule.schedule_not_found(schedule_id)
        return found

    async def delete(self, user: UserContext, call_id: str, schedule_id: str) -> None:
        """What it has started goes on; SCHEDULE_NOT_FOUND."""
        check_id(schedule_id, "schedule_id")
        async with self._sessions.open(user, call_id) as connection:
            if not await Schedules(connection, user).delete(schedule_id):
                raise schedule.schedule_not_found(schedule_id)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _check_session(user: UserContext) -> None:
    if user.run_id:
        raise schedule.made_by_a_run()
