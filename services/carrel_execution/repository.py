"""The statements of one user's calls. Each says whose rows it means; row security says it again below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext
from carrel_execution.domain import FullQueue, ListRequest, QueueLimits, Run, StartRequest, State

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

_COLUMNS = """run_id, thread_id, agent, state, epoch, input_json, coalesce(result_json, '') AS result_json,
    coalesce(error_reason, '') AS error_reason, coalesce(error_message, '') AS error_message, cancel_reason,
    create_time, start_time, finish_time"""
_PAGE_BYTES = 2 * 1024 * 1024
"""How much input the runs of a page may hold together: the page becomes shorter instead of larger than a message."""

ACCEPT = text(f"""
    SELECT {_COLUMNS}, request_digest, full_queue, most FROM (
        SELECT (accepted).*, full_queue, most FROM accept_run(
            :tenant_id, :user_id, :run_id, :thread_id, :agent, :request_id, :request_digest, :input_json, :grant_bytes, :event,
            :queued_limit, :running_limit, :tenant_queued_limit, :tenant_running_limit, :limit_time)
    ) AS answer
    WHERE full_queue IS NOT NULL OR {OWN}
""")
GET = text(f"SELECT {_COLUMNS} FROM run WHERE {OWN} AND run_id = :run_id")
CANCEL = text(f"SELECT {_COLUMNS} FROM cancel_run(:tenant_id, :user_id, :run_id, :reason, :event) WHERE {OWN}")
LIVE_GRANTS = text(f"""
    SELECT run_id, grant_bytes FROM run WHERE {OWN} AND state IN ('QUEUED', 'RUNNING', 'WAITING')
    ORDER BY create_time, run_id
""")
LIST = text(f"""
    WITH page AS (
        SELECT run_id, thread_id, agent, state, epoch, input_json, '' AS result_json, error_reason, error_message, cancel_reason,
               create_time, start_time, finish_time, row_number() OVER newest AS place,
               sum(octet_length(input_json)) OVER newest AS bytes
        FROM (
            SELECT * FROM run
            WHERE {OWN} AND (create_time, run_id) < (:create_time, :run_id)
              AND (:thread_id = '' OR thread_id = :thread_id)
              AND (cardinality(CAST(:states AS text[])) = 0 OR state = ANY(CAST(:states AS text[])))
            ORDER BY create_time DESC, run_id DESC LIMIT :page_size + 1
        ) AS found
        WINDOW newest AS (ORDER BY create_time DESC, run_id DESC)
    )
    SELECT {_COLUMNS}, (SELECT count(*) FROM page) AS found FROM page
    WHERE place <= :page_size AND bytes <= {_PAGE_BYTES} ORDER BY place
""")


class Runs:
    """The runs that one transaction sees: those of its user."""

    def __init__(self, connection: Connection, user: UserContext) -> None:
        self._connection = connection
        self._owner = {"tenant_id": user.tenant_id, "user_id": user.user_id}

    async def accept(
        self, request: StartRequest, run_id: str, thread_id: str, *, grant: bytes, event: bytes, limits: QueueLimits
    ) -> tuple[Run, bytes] | FullQueue:
        """The run and the digest of the request that started it, now or before; or the queue that is full."""
        values = {
            **self._owner,
            "run_id": run_id,
            "thread_id": thread_id,
            "agent": request.agent,
            "request_id": request.request_id,
            "request_digest": request.digest,
            "input_json": request.input_json,
            "grant_bytes": grant,
            "event": event,
            "queued_limit": limits.queued,
            "running_limit": limits.running,
            "tenant_queued_limit": limits.tenant_queued,
            "tenant_running_limit": limits.tenant_running,
            "limit_time": limits.time,
        }
        row = (await self._connection.execute(ACCEPT, values)).one()
        return FullQueue(row.full_queue, row.most) if row.full_queue else (_run(row), row.request_digest)

    async def get(self, run_id: str) -> Run | None:
        """The run, or None when this user has none of this id."""
        row = (await self._connection.execute(GET, {**self._owner, "run_id": run_id})).one_or_none()
        return _run(row) if row else None

    async def cancel(self, run_id: str, reason: str, event: bytes) -> Run | None:
        """The run as it is after the request to stop. `event` becomes its final event if it was only waiting."""
        values = {**self._owner, "run_id": run_id, "reason": reason, "event": event}
        row = (await self._connection.execute(CANCEL, values)).one_or_none()
        return _run(row) if row else None

    async def live_grants(self) -> Sequence[tuple[str, bytes]]:
        """The runs that are not over, with the contexts they were started under."""
        return [(row.run_id, row.grant_bytes) for row in await self._connection.execute(LIVE_GRANTS, self._owner)]

    async def list(self, request: ListRequest) -> tuple[list[Run], bool]:
        """A page of runs without their results, and whether there are more."""
        values = {
            **self._owner,
            "create_time": request.after.create_time,
            "run_id": request.after.run_id,
            "thread_id": request.thread_id,
            "states": [str(state) for state in request.states],
            "page_size": request.page_size,
        }
        rows = (await self._connection.execute(LIST, values)).all()
        return [_run(row) for row in rows], bool(rows) and rows[0].found > len(rows)


def _run(row: Row) -> Run:
    values: list[Any] = list(row[:13])
    values[3] = State(values[3])
    return Run(*values)
