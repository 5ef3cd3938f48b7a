"""The log as its user reads it: one statement. It knows no RPC and does not look into events."""

from __future__ import annotations

from sqlalchemy import TextClause, text

from carrel_chassis.db.engine import Connection
from carrel_chassis.identity import UserContext
from carrel_events.domain import MAX_OFFSET, NO_LOG, Cursor, Filter, LogRead, LogState

OWN = "tenant_id = :tenant_id AND user_id = :user_id"


def _read(more: str = "") -> TextClause:
    """The head and the events in one statement, so that both are of one moment: without a row after the last one that was read,
    the reader has seen everything up to the head's last offset. Bodies beyond the limit in bytes are not even fetched."""
    return text(f"""
        SELECT log.epoch, log.oldest_offset, log.last_offset, found.log_offset, found.body
        FROM (SELECT epoch, oldest_offset, last_offset FROM user_log WHERE {OWN}) AS log
        LEFT JOIN LATERAL (
            SELECT log_offset, body
            FROM (
                SELECT log_offset, body, sum(octet_length(body)) OVER (ORDER BY log_offset) - octet_length(body) AS bytes_before
                FROM (
                    SELECT log_offset, body FROM event
                    WHERE {OWN} AND log_offset > :after AND log_offset >= log.oldest_offset
                      AND (CAST(:thread_id AS text) = '' OR thread_id = :thread_id)
                      AND (cardinality(CAST(:types AS text[])) = 0 OR type = ANY (:types)) {more}
                    ORDER BY log_offset LIMIT :count
                ) AS wanted
            ) AS sized
            WHERE bytes_before < :max_bytes
        ) AS found ON true
        ORDER BY found.log_offset
    """)


READ = _read()
# A statement of its own: a run has an index, and a plan for both cases would not use it.
READ_OF_RUN = _read("AND run_id = :run_id")


async def read_events(
    connection: Connection, user: UserContext, after: Cursor, wanted: Filter, count: int, max_bytes: int
) -> LogRead:
    """Reads at most `count` events after an offset, and no further once they have `max_bytes` together; at least one if there is one."""
    parameters = {
        "tenant_id": user.tenant_id,
        "user_id": user.user_id,
        "run_id": wanted.run_id,
        "thread_id": wanted.thread_id,
        "types": list(wanted.types),
        "after": min(after.offset, MAX_OFFSET),
        # One more than wanted: whether it is there says whether the read was cut.
        "count": count + 1,
        "max_bytes": max_bytes,
    }
    statement = READ_OF_RUN if wanted.run_id else READ
    found = (await connection.execute(statement, parameters)).all()
    if not found:
        return LogRead(NO_LOG, (), cut=False)
    state = LogState(*found[0][:3])
    rows = tuple((row.log_offset, row.body) for row in found[:count] if row.log_offset is not None)
    full = len(found) > count or sum(len(body) for _, body in rows) >= max_bytes
    return LogRead(state, rows, cut=full and rows[-1][0] < state.last_offset)
