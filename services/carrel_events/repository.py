"""The log's tables and SQL: one statement to append, one to read. It knows no RPC and does not look into events."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from carrel_chassis.identity import UserContext
from carrel_events.domain import MAX_OFFSET, NO_LOG, Appended, Cursor, Filter, LogRead, LogState, NewEvent

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

APPEND = text("""
    SELECT stale, log_epoch, log_last, new_ids
    FROM append_events(:tenant_id, :user_id, :run_id, :thread_id, :attempt, :ids, :types, :times, :bodies)
""")

# The head and the events in one statement, so that both are of one moment: without a row after the last one that was read,
# the reader has seen everything up to the head's last offset. Bodies beyond the limit in bytes are not even fetched.
READ = text(f"""
    SELECT log.epoch, log.oldest_offset, log.last_offset, found.log_offset, found.body
    FROM (SELECT epoch, oldest_offset, last_offset FROM user_log WHERE {OWN}) AS log
    LEFT JOIN (
        SELECT log_offset, body
        FROM (
            SELECT log_offset, body, sum(octet_length(body)) OVER (ORDER BY log_offset) - octet_length(body) AS bytes_before
            FROM (
                SELECT log_offset, body FROM event
                WHERE {OWN} AND log_offset > :after
                  AND (CAST(:thread_id AS text) = '' OR thread_id = :thread_id)
                  AND (CAST(:run_id AS text) = '' OR run_id = :run_id)
                  AND (cardinality(CAST(:types AS text[])) = 0 OR type = ANY (:types))
                ORDER BY log_offset LIMIT :count
            ) AS wanted
        ) AS sized
        WHERE bytes_before < :max_bytes
    ) AS found ON true
    ORDER BY found.log_offset
""")


async def append_events(connection: AsyncConnection, user: UserContext, events: Sequence[NewEvent]) -> Appended | None:
    """Appends what the log does not have, in the order given; None when a later attempt of the context's run has written."""
    parameters = {
        "tenant_id": user.tenant_id,
        "user_id": user.user_id,
        "run_id": user.run_id,
        "thread_id": user.thread_id,
        "attempt": user.attempt,
        "ids": [event.event_id for event in events],
        "types": [event.type for event in events],
        "times": [event.create_time for event in events],
        "bodies": [event.body for event in events],
    }
    row = (await connection.execute(APPEND, parameters)).one()
    return None if row.stale else Appended(row.log_epoch, row.log_last, tuple(row.new_ids))


async def read_events(
    connection: AsyncConnection, user: UserContext, after: Cursor, wanted: Filter, count: int, max_bytes: int
) -> LogRead:
    """Reads at most `count` events after an offset, and no further once they have `max_bytes` together; at least one if there is one."""
    parameters = {
        "tenant_id": user.tenant_id,
        "user_id": user.user_id,
        "after": min(after.offset, MAX_OFFSET),
        "thread_id": wanted.thread_id,
        "run_id": wanted.run_id,
        "types": list(wanted.types),
        # One more than wanted: whether it is there says whether the read was cut.
        "count": count + 1,
        "max_bytes": max_bytes,
    }
    found = (await connection.execute(READ, parameters)).all()
    if not found:
        return LogRead(NO_LOG, (), cut=False)
    state = LogState(*found[0][:3])
    rows = tuple((row.log_offset, row.body) for row in found[:count] if row.log_offset is not None)
    full = len(found) > count or sum(len(body) for _, body in rows) >= max_bytes
    return LogRead(state, rows, cut=full and rows[-1][0] < state.last_offset)
