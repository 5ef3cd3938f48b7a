"""The statements of a user's schedules. Each says whose rows it means; row security says it again below."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext
from carrel_chassis.pages import Page
from carrel_execution.domain import BusyThread
from carrel_execution.schedules.schedule import Schedule, ScheduleRequest

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

_COLUMNS = """schedule_id, cron, time_zone, agent, input_json, thread_id, busy_thread, priority, paused, create_time, next_time,
    last_run_id, last_error"""
_WIDTH = 13
_PAGE_BYTES = 2 * 1024 * 1024
"""How much input the schedules of a page may hold together: the page becomes shorter instead of larger than a message."""

# Two that are made at once are counted one after the other; another user whose hash is the same only waits a moment.
LOCK_SCHEDULES = text("SELECT pg_advisory_xact_lock(7410002, hashtext(:tenant_id || ' ' || :user_id))")
ADD_SCHEDULE = text(f"""
    INSERT INTO schedule (tenant_id, user_id, schedule_id, request_id, request_digest, cron, time_zone, agent, input_json, thread_id,
                          busy_thread, priority, grant_bytes, create_time, next_time, check_time)
    SELECT :tenant_id, :user_id, :schedule_id, :request_id, :request_digest, :cron, :time_zone, :agent, :input_json, :thread_id,
           :busy_thread, :priority, :grant_bytes, clock_timestamp(), :next_time, :check_time
    WHERE (SELECT count(*) FROM schedule WHERE {OWN}) < :most
    ON CONFLICT (tenant_id, user_id, request_id) DO NOTHING RETURNING schedule_id
""")
GET_SCHEDULE_OF_REQUEST = text(
    f"SELECT {_COLUMNS}, request_digest FROM schedule WHERE {OWN} AND request_id = :request_id"
)
GET_SCHEDULE = text(f"SELECT {_COLUMNS} FROM schedule WHERE {OWN} AND schedule_id = :schedule_id")
LIST_SCHEDULES = text(f"""
    WITH page AS (
        SELECT *, row_number() OVER newest AS place, sum(octet_length(input_json)) OVER newest AS bytes
        FROM (
            SELECT * FROM schedule
            WHERE {OWN} AND (create_time, schedule_id) < (:create_time, :schedule_id)
            ORDER BY create_time DESC, schedule_id DESC LIMIT :count
        ) AS found
        WINDOW newest AS (ORDER BY create_time DESC, schedule_id DESC)
    )
    SELECT {_COLUMNS}, (SELECT count(*) FROM page) AS found FROM page
    WHERE place < :count AND bytes <= {_PAGE_BYTES} ORDER BY place
""")
PAUSE_SCHEDULE = text(f"""
    UPDATE schedule SET paused = true, next_time = NULL WHERE {OWN} AND schedule_id = :schedule_id RETURNING {_COLUMNS}
""")
RESUME_SCHEDULE = text(f"""
    UPDATE schedule SET paused = false, next_time = :next_time, check_time = :check_time, grant_bytes = :grant_bytes, last_error = ''
    WHERE {OWN} AND schedule_id = :schedule_id AND paused
    RETURNING {_COLUMNS}
""")
DELETE_SCHEDULE = text(f"DELETE FROM schedule WHERE {OWN} AND schedule_id = :schedule_id RETURNING schedule_id")
# What was changed meanwhile stays as it is: only who still means the same occurrence says what came of it.
SCHEDULE_WENT_ON = text(f"""
    UPDATE schedule SET next_time = :next_time, check_time = :check_time, last_run_id = coalesce(:last_run_id, last_run_id),
           last_error = coalesce(:last_error, last_error), paused = CAST(:next_time AS timestamptz) IS NULL, hold_until = '-infinity'
    WHERE {OWN} AND schedule_id = :schedule_id AND next_time = :due_time RETURNING schedule_id
""")


class Schedules:
    """The schedules that one transaction sees: those of its user."""

    def __init__(self, connection: Connection, user: UserContext) -> None:
        self._connection = connection
        self._owner = {"tenant_id": user.tenant_id, "user_id": user.user_id}

    async def add(
        self,
        request: ScheduleRequest,
        schedule_id: str,
        *,
        grant: bytes,
        next_time: datetime,
        check_time: datetime,
        most: int,
    ) -> tuple[Schedule, bytes] | None:
        """The schedule and the digest of the request that made it, now or before; None when the user has as many as may be."""
        start = request.start
        values = {
            **self._owner,
            "schedule_id": schedule_id,
            "request_id": start.request_id,
            "request_digest": request.digest,
            "cron": request.cron,
            "time_zone": request.time_zone,
            "agent": start.agent,
            "input_json": start.input_json,
            "thread_id": start.thread_id,
            "busy_thread": start.busy_thread,
            "priority": start.priority,
            "grant_bytes": grant,
            "next_time": next_time,
            "check_time": check_time,
            "most": most,
        }
        await self._connection.execute(LOCK_SCHEDULES, self._owner)
        await self._connection.execute(ADD_SCHEDULE, values)
        row = (await self._connection.execute(GET_SCHEDULE_OF_REQUEST, values)).one_or_none()
        return (_schedule(row), row.request_digest) if row else None

    async def get(self, schedule_id: str) -> Schedule | None:
        """The schedule, or None when this user has none of this id."""
        row = (await self._connection.execute(GET_SCHEDULE, {**self._owner, "schedule_id": schedule_id})).one_or_none()
        return _schedule(row) if row else None

    async def list(self, page: Page) -> tuple[Sequence[Schedule], bool]:
        """A page, and whether there are more."""
        values = {**self._owner, "create_time": page.create_time, "schedule_id": page.id, "count": page.size + 1}
        rows = (await self._connection.execute(LIST_SCHEDULES, values)).all()
        return [_schedule(row) for row in rows], bool(rows) and rows[0].found > len(rows)

    async def pause(self, schedule_id: str) -> Schedule | None:
        """The schedule as it is then; None when this user has none of this id."""
        row = (
            await self._connection.execute(PAUSE_SCHEDULE, {**self._owner, "schedule_id": schedule_id})
        ).one_or_none()
        return _schedule(row) if row else None

    async def resume(
        self, schedule_id: str, *, grant: bytes, next_time: datetime, check_time: datetime
    ) -> Schedule | None:
        """The schedule as it is then; None when this user has none of this id that is paused."""
        values = {
            **self._owner,
            "schedule_id": schedule_id,
            "grant_bytes": grant,
            "next_time": next_time,
            "check_time": check_time,
        }
        row = (await self._connection.execute(RESUME_SCHEDULE, values)).one_or_none()
        return _schedule(row) if row else None

    async def delete(self, schedule_id: str) -> bool:
        """False when this user has none of this id."""
        values = {**self._owner, "schedule_id": schedule_id}
        return (await self._connection.execute(DELETE_SCHEDULE, values)).one_or_none() is not None

    async def went_on(
        self,
        schedule_id: str,
        due_time: datetime,
        *,
        next_time: datetime | None,
        check_time: datetime,
        last_run_id: str | None,
        last_error: str | None,
    ) -> bool:
        """Notes what came of the occurrence at `due_time`. Without a next time it is paused; a run or an error that is None stays as it is.
        False when the schedule has been changed meanwhile."""
        values = {
            **self._owner,
            "schedule_id": schedule_id,
            "due_time": due_time,
            "next_time": next_time,
            "check_time": check_time,
            "last_run_id": last_run_id,
            "last_error": last_error,
        }
        return (await self._connection.execute(SCHEDULE_WENT_ON, values)).one_or_none() is not None


def _schedule(row: Row) -> Schedule:
    values: list[Any] = list(row[:_WIDTH])
    values[6] = BusyThread(values[6])
    return Schedule(*values)
