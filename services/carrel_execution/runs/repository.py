"""The statements of one user's calls. Each says whose rows it means; row security says it again below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext
from carrel_execution.domain import BusyThread, ListRequest, OnDisconnect, Run, State
from carrel_execution.runs.start import Accepted, Offer, QueueLimits, Refusal, ServiceRules, StartRequest, own_thread

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

_RESULT = "coalesce(result_json, '') AS result_json"
_COLUMNS = f"""run_id, thread_id, agent, state, epoch, input_json, {_RESULT},
    coalesce(error_reason, '') AS error_reason, coalesce(error_message, '') AS error_message, cancel_reason,
    create_time, start_time, finish_time, priority, earliest_start_time, deadline, timeout_seconds, busy_thread, on_disconnect,
    retries, agent_version, coalesce(repeats_run_id, '') AS repeats_run_id, coalesce(schedule_id, '') AS schedule_id,
    coalesce(cancel_report, '') AS cancel_report,
    CASE WHEN found.state = 'WAITING' THEN ARRAY(
        SELECT wait_id FROM wait WHERE wait.tenant_id = found.tenant_id AND wait.user_id = found.user_id
            AND wait.run_id = found.run_id AND wait.state = 'PENDING' ORDER BY wait.create_time, wait_id
    ) ELSE '{{}}' END AS wait_ids"""
_WIDTH = 25
_PAGE_BYTES = 2 * 1024 * 1024
"""How much input the runs of a page may hold together: the page becomes shorter instead of larger than a message."""

ACCEPT = text(f"""
    SELECT {_COLUMNS}, request_digest, ready, direct, interrupted, refusal, most, blocker, retry_time FROM (
        SELECT (accepted).*, direct, interrupted, refusal, most, blocker, retry_time FROM accept_run(
            :tenant_id, :user_id, :run_id, :thread_id, :agent, :request_id, :request_digest, :input_json, :grant_bytes, :event,
            :own_thread, :busy_thread, :priority, :earliest_start_time, :deadline, :timeout_seconds, :on_disconnect, :follow_seconds,
            :repeats_run_id, :schedule_id, :queued_limit, :running_limit, :weight,
            :tenant_queued_limit, :tenant_running_limit, :tenant_weight, :limit_time, :breaker_failures, :breaker_seconds,
            :worker, :lease_seconds, :default_running_limit, :agent_version)
    ) AS found
    WHERE refusal IS NOT NULL OR {OWN}
""")
GET = text(f"SELECT {_COLUMNS} FROM run AS found WHERE {OWN} AND run_id = :run_id")
CANCEL = text(f"""
    SELECT {_COLUMNS}, earlier FROM (
        SELECT (cancelled).*, earlier FROM cancel_run(:tenant_id, :user_id, :run_id, :reason)
    ) AS found
    WHERE earlier IS NOT NULL AND {OWN}
""")
LIVE_GRANTS = text(f"""
    SELECT run_id, grant_bytes FROM run WHERE {OWN} AND state IN ('QUEUED', 'RUNNING', 'WAITING')
    ORDER BY create_time, run_id
""")
LIST = text(f"""
    WITH page AS (
        SELECT *, row_number() OVER newest AS place, sum(octet_length(input_json)) OVER newest AS bytes
        FROM (
            SELECT * FROM run
            WHERE {OWN} AND run_id <> '' AND (create_time, run_id) < (:create_time, :run_id)
              AND (:thread_id = '' OR thread_id = :thread_id)
              AND (cardinality(CAST(:states AS text[])) = 0 OR state = ANY(CAST(:states AS text[])))
            ORDER BY create_time DESC, run_id DESC LIMIT :page_size + 1
        ) AS newest_runs
        WINDOW newest AS (ORDER BY create_time DESC, run_id DESC)
    )
    SELECT {_COLUMNS.replace(_RESULT, "'' AS result_json")}, (SELECT count(*) FROM page) AS all_found FROM page AS found
    WHERE place <= :page_size AND bytes <= {_PAGE_BYTES} ORDER BY place
""")


class Runs:
    """The runs that one transaction sees: those of its user."""

    def __init__(self, connection: Connection, user: UserContext) -> None:
        self._connection = connection
        self._owner = {"tenant_id": user.tenant_id, "user_id": user.user_id}

    async def accept(
        self,
        request: StartRequest,
        run_id: str,
        *,
        grant: bytes,
        event: bytes,
        limits: QueueLimits,
        rules: ServiceRules,
        offer: Offer | None = None,
    ) -> Accepted | Refusal:
        """Starts a run, or finds the one that this request started before. `event` is its first; `offer` lets it begin at once."""
        values = {
            **self._owner,
            **_wishes(request),
            **_limits(limits),
            "run_id": run_id,
            "thread_id": request.thread_id or own_thread(run_id),
            "grant_bytes": grant,
            "event": event,
            "follow_seconds": rules.disconnect_seconds if request.on_disconnect is OnDisconnect.CANCEL else None,
            "breaker_failures": rules.breaker_failures,
            "breaker_seconds": rules.breaker_seconds,
            "worker": offer.worker if offer else None,
            "lease_seconds": rules.lease_seconds,
            "default_running_limit": rules.running,
            "agent_version": offer.agent_version if offer else "",
        }
        row = (await self._connection.execute(ACCEPT, values)).one()
        if row.refusal:
            return Refusal(row.refusal, row.most, row.blocker, row.retry_time)
        return Accepted(_run(row), row.request_digest, row.direct, row.ready, tuple(row.interrupted))

    async def get(self, run_id: str) -> Run | None:
        """The run, or None when this user has none of this id."""
        row = (await self._connection.execute(GET, {**self._owner, "run_id": run_id})).one_or_none()
        return _run(row) if row else None

    async def cancel(self, run_id: str, reason: str) -> tuple[Run, State] | None:
        """The run as it is after the request to stop, and the state in which that found it; None when this user has no such run."""
        values = {**self._owner, "run_id": run_id, "reason": reason}
        row = (await self._connection.execute(CANCEL, values)).one_or_none()
        return (_run(row), State(row.earlier)) if row else None

    async def live_grants(self) -> Sequence[tuple[str, bytes]]:
        """The runs that are not over, with the contexts they were started under."""
        return [(row.run_id, row.grant_bytes) for row in await self._connection.execute(LIVE_GRANTS, self._owner)]

    async def list(self, request: ListRequest) -> tuple[list[Run], bool]:
        """A page of runs without their results, and whether there are more."""
        values = {
            **self._owner,
            "create_time": request.page.create_time,
            "run_id": request.page.id,
            "thread_id": request.thread_id,
            "states": [str(state) for state in request.states],
            "page_size": request.page.size,
        }
        rows = (await self._connection.execute(LIST, values)).all()
        return [_run(row) for row in rows], bool(rows) and rows[0].all_found > len(rows)


def _wishes(request: StartRequest) -> dict[str, Any]:
    return {
        "agent": request.agent,
        "request_id": request.request_id,
        "request_digest": request.digest,
        "input_json": request.input_json,
        "own_thread": not request.thread_id,
        "busy_thread": request.busy_thread,
        "priority": request.priority,
        "earliest_start_time": request.earliest_start_time,
        "deadline": request.deadline,
        "timeout_seconds": request.timeout_seconds,
        "on_disconnect": request.on_disconnect,
        "repeats_run_id": request.repeats_run_id or None,
        "schedule_id": request.schedule_id or None,
    }


def _limits(limits: QueueLimits) -> dict[str, Any]:
    return {
        "queued_limit": limits.queued,
        "running_limit": limits.running,
        "weight": limits.weight,
        "tenant_queued_limit": limits.tenant_queued,
        "tenant_running_limit": limits.tenant_running,
        "tenant_weight": limits.tenant_weight,
        "limit_time": limits.time,
    }


def _run(row: Row) -> Run:
    values: list[Any] = list(row[:_WIDTH])
    values[3] = State(values[3])
    values[17], values[18] = BusyThread(values[17]), OnDisconnect(values[18])
    values[24] = tuple(values[24])
    return Run(*values)
