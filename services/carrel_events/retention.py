"""Retention: segments that are old enough are emptied whole, and what a user with few events must keep is carried over first.

Nobody waits for it: heads are locked a few at a time, a segment that is emptied has long not been written to, and the one lock
that every reader takes is asked for briefly and given up when it is not had at once.
"""

from __future__ import annotations

import asyncio

import asyncpg
from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_events.domain import Cursor
from carrel_events.settings import EventsSettings

KEPT = -1
"""The segment of what outlives its own."""

_HEADS_AT_ONCE = 500
# One process at a time; the others come again later.
_TURN = text("SELECT pg_try_advisory_xact_lock(7410001)")

_ROTATE = text("""
    WITH written_to AS (
        SELECT number FROM segment
        WHERE begin_time IS NOT NULL AND end_time IS NULL AND begin_time <= now() - CAST(:seconds AS float8) * interval '1 second'
          AND EXISTS (SELECT FROM segment AS next WHERE next.number = (segment.number + 1) % 4 AND next.begin_time IS NULL)
    )
    UPDATE segment SET end_time = now() FROM written_to WHERE segment.number = written_to.number
    RETURNING (segment.number + 1) % 4
""")
_BEGIN = text("UPDATE segment SET begin_time = now(), end_time = NULL WHERE number = :number")
_OLD = text("""
    SELECT number FROM segment WHERE end_time <= now() - CAST(:seconds AS float8) * interval '1 second' ORDER BY end_time
""")

# What of a user's log stays: all that is younger than the segment, and the last events in any case.
_MOVE_HEADS = text("""
    WITH gone AS (
        SELECT tenant_id, user_id, max(log_offset) AS last FROM event
        WHERE segment = :segment AND (tenant_id, user_id) > (:tenant_id, :user_id)
        GROUP BY tenant_id, user_id ORDER BY tenant_id, user_id LIMIT :count
    ), moved AS (
        UPDATE user_log AS log SET oldest_offset = least(gone.last, log.last_offset - :keep) + 1 FROM gone
        WHERE log.tenant_id = gone.tenant_id AND log.user_id = gone.user_id
          AND least(gone.last, log.last_offset - :keep) + 1 > log.oldest_offset
    )
    SELECT tenant_id, user_id FROM gone ORDER BY tenant_id DESC, user_id DESC LIMIT 1
""")
_CARRY_OVER = text("""
    INSERT INTO event (tenant_id, user_id, log_offset, event_id, run_id, thread_id, type, create_time, body, segment)
    SELECT e.tenant_id, e.user_id, e.log_offset, e.event_id, e.run_id, e.thread_id, e.type, e.create_time, e.body, -1
    FROM event AS e JOIN user_log AS log ON log.tenant_id = e.tenant_id AND log.user_id = e.user_id
    WHERE e.segment = :segment AND e.log_offset >= log.oldest_offset
""")
_FORGET_ATTEMPTS = text("""
    DELETE FROM run_attempt AS attempt
    USING (SELECT DISTINCT tenant_id, user_id, run_id FROM event WHERE segment = :segment) AS run
    WHERE attempt.tenant_id = run.tenant_id AND attempt.user_id = run.user_id AND attempt.run_id = run.run_id
      AND NOT EXISTS (
          SELECT FROM event AS e WHERE e.tenant_id = run.tenant_id AND e.user_id = run.user_id AND e.run_id = run.run_id
            AND e.segment <> :segment
      )
""")
_EMPTY = text("SELECT empty_segment(CAST(:segment AS smallint))")
_BRIEFLY = text("SET LOCAL lock_timeout = '250ms'")
_TRIM_KEPT = text("""
    DELETE FROM event AS e USING user_log AS log
    WHERE e.segment = -1 AND log.tenant_id = e.tenant_id AND log.user_id = e.user_id AND e.log_offset < log.oldest_offset
""")

_NEW_EPOCH = text("""
    UPDATE user_log SET oldest_offset = 1, last_offset = 0, epoch = greatest(epoch + 1, extract(epoch FROM clock_timestamp())::bigint)
    WHERE tenant_id = :tenant_id AND user_id = :user_id RETURNING epoch
""")
_ERASE = text("""
    WITH attempts AS (DELETE FROM run_attempt WHERE tenant_id = :tenant_id AND user_id = :user_id),
    erased AS (DELETE FROM event WHERE tenant_id = :tenant_id AND user_id = :user_id RETURNING 1)
    SELECT count(*) FROM erased
""")


class Retention:
    """Removes what need not be kept, and who must not be."""

    def __init__(self, engine: Engine, settings: EventsSettings) -> None:
        self._engine = engine
        self._interval_seconds = settings.retention_interval_seconds
        self._keep_seconds = settings.keep_hours * 3600
        self._keep_events = settings.keep_events

    async def run(self) -> None:
        """For ever, as a task beside the server."""
        while True:
            try:
                await self.once()
            except (CarrelError, asyncpg.PostgresError, OSError) as error:
                get_logger().warning("retention.waits", error=str(error) or type(error).__name__)
            await asyncio.sleep(self._interval_seconds)

    async def once(self) -> None:
        """Begins the next segment when it is time, and empties those that have been kept for long enough."""
        await self._rotate()
        async with database_errors(), self._engine.begin() as connection:
            old = [row[0] for row in await connection.execute(_OLD, {"seconds": self._keep_seconds})]
        for segment in old:
            await self._move_heads(segment)
            await self._empty(segment)
            await self._move_heads(KEPT)
            async with database_errors(), self._engine.begin() as connection:
                await connection.execute(_TRIM_KEPT)

    async def erase(self, tenant_id: str, user_id: str) -> tuple[int, Cursor | None]:
        """Removes a user's events: how many there were, and where the new log begins; None when there was no log."""
        owner = {"tenant_id": tenant_id, "user_id": user_id}
        async with database_errors(), self._engine.begin() as connection:
            # The head first: whoever appends waits, and goes on in the new log.
            epoch = (await connection.execute(_NEW_EPOCH, owner)).scalar_one_or_none()
            if epoch is None:
                return 0, None
            erased: int = (await connection.execute(_ERASE, owner)).scalar_one()
        return erased, Cursor(epoch, 0)

    async def _rotate(self) -> None:
        """A segment is written to for half of the time that events are kept: so there are never more than three beside the empty one."""
        async with database_errors(), self._engine.begin() as connection:
            if not await _turn(connection):
                return
            begun = (await connection.execute(_ROTATE, {"seconds": self._keep_seconds / 2})).scalar_one_or_none()
            if begun is not None:
                await connection.execute(_BEGIN, {"number": begun})
                get_logger().info("segment.begun", segment=begun)

    async def _move_heads(self, segment: int) -> None:
        after = {"tenant_id": "", "user_id": ""}
        while True:
            values = {**after, "segment": segment, "keep": self._keep_events, "count": _HEADS_AT_ONCE}
            async with database_errors(), self._engine.begin() as connection:
                last = (await connection.execute(_MOVE_HEADS, values)).one_or_none()
            if last is None:
                return
            after = {"tenant_id": last.tenant_id, "user_id": last.user_id}

    async def _empty(self, segment: int) -> None:
        """All or nothing: what is carried over appears in the moment in which the rest goes."""
        values = {"segment": segment}
        async with database_errors(), self._engine.begin() as connection:
            if not await _turn(connection):
                return
            await connection.execute(_CARRY_OVER, values)
            await connection.execute(_FORGET_ATTEMPTS, values)
            await connection.execute(_BRIEFLY)
            await connection.execute(_EMPTY, values)
        get_logger().info("segment.emptied", segment=segment)


async def _turn(connection: Connection) -> bool:
    turn: bool = (await connection.execute(_TURN)).scalar_one()
    return turn
