"""The statements of the workers, across users: claim, renew, end, give back, and what is still to be sent. One statement each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import TextClause, text

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_execution.domain import ClaimedRun, Outcome

CLAIM = text("SELECT * FROM claim_runs(:worker, :count, :lease_seconds, :running_limit, CAST(:versions AS jsonb))")
RENEW = text("""
    WITH held AS MATERIALIZED (  -- in the order in which steps of the journal lock them
        SELECT tenant_id, user_id, run_id FROM run
        WHERE state IN ('RUNNING', 'CANCELLING') AND worker = :worker AND run_id = ANY(:run_ids)
        ORDER BY tenant_id, user_id, run_id FOR NO KEY UPDATE
    )
    UPDATE run SET lease_until = now() + make_interval(secs => :lease_seconds) FROM held
    WHERE run.tenant_id = held.tenant_id AND run.user_id = held.user_id AND run.run_id = held.run_id
    RETURNING run.run_id, epoch, cancel_requested, cancel_reason
""")
FINISH = text("""
    SELECT ended, reason, waiting, coalesce(position, 0), coalesce(worked_seconds, 0), overtakes
    FROM finish_run(:tenant_id, :user_id, :run_id, :epoch, :only_expired, :state,
        :result_json, :error_reason, :error_message, :events, :thread_state, :cancel_report, :unsent_position)
""")
RETRY = text("""
    SELECT ended, reason, coalesce(position, 0)
    FROM retry_run(:tenant_id, :user_id, :run_id, :epoch, :delay_seconds, :events)
""")
THREAD_STATE = text("""
    SELECT state_json FROM thread_state WHERE tenant_id = :tenant_id AND user_id = :user_id AND thread_id = :thread_id
""")
WAKE_DUE = text("SELECT wake_due_runs(:count)")
END_OVERDUE = text("SELECT tenant_id, user_id, run_id, agent FROM end_overdue_runs(:count)")
GIVE_BACK = text("""
    SELECT count(*) FILTER (WHERE requeue_run(tenant_id, user_id, run_id, epoch, false)) FROM (
        SELECT tenant_id, user_id, run_id, epoch FROM run
        WHERE state = 'RUNNING' AND worker = :worker AND run_id = ANY(:run_ids)
        ORDER BY tenant_id, user_id, run_id  -- each of them locks a slot: all lock in this order
    ) AS held
""")
REAP = text("""
    SELECT tenant_id, user_id, run_id, agent, epoch, state = 'CANCELLING' AS cancelling, cancel_reason,
           CASE WHEN state = 'RUNNING' AND lost_leases + 1 < :max_attempts
               THEN requeue_run(tenant_id, user_id, run_id, epoch, true) ELSE false END AS requeued,
           lost_leases + 1 >= :max_attempts AS hopeless
    FROM (
        SELECT * FROM (
            SELECT * FROM run WHERE state IN ('RUNNING', 'CANCELLING') AND lease_until < now() ORDER BY lease_until LIMIT 100
        ) AS oldest
        ORDER BY tenant_id, user_id, run_id  -- the order in which the commit counts them for their tenants
    ) AS expired
""")
COUNT_IN = text("""
    UPDATE user_slot SET counted = true
    FROM (
        SELECT tenant_id, user_id FROM tenant_slot AS tenant JOIN user_slot AS slot USING (tenant_id)
        WHERE (tenant.queued_limit > 0 OR tenant.running_limit > 0 OR tenant.weight > 0) AND slot.queued > 0 AND NOT slot.counted
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    ) AS found
    WHERE user_slot.tenant_id = found.tenant_id AND user_slot.user_id = found.user_id
    RETURNING user_slot.user_id
""")
TAKE_DUE = text("""
    WITH due AS MATERIALIZED (
        SELECT tenant_id, user_id, run_id FROM outbox WHERE due_time <= now()
        ORDER BY due_time LIMIT :count FOR UPDATE SKIP LOCKED
    ), held AS (
        UPDATE outbox SET due_time = now() + make_interval(secs => :hold_seconds)
        FROM (SELECT DISTINCT * FROM due) AS due
        WHERE outbox.tenant_id = due.tenant_id AND outbox.user_id = due.user_id AND outbox.run_id = due.run_id
        RETURNING outbox.*
    )
    SELECT h.tenant_id, h.user_id, h.run_id, h.position, h.event, run.thread_id, run.agent, run.epoch, run.grant_bytes,
           run.state, coalesce(run.error_reason, ''), coalesce(run.error_message, ''), run.finish_time,
           CASE WHEN run.start_time IS NOT NULL
               THEN CAST(extract(epoch FROM run.finish_time - run.start_time) - run.waited_seconds AS float8) END AS worked_seconds
    FROM held AS h JOIN run ON run.tenant_id = h.tenant_id AND run.user_id = h.user_id AND run.run_id = h.run_id
    ORDER BY h.tenant_id, h.user_id, h.run_id, h.position
""")
DELETE_SENT = text("""
    DELETE FROM outbox USING unnest(
        CAST(:tenant_ids AS text[]), CAST(:user_ids AS text[]), CAST(:run_ids AS text[]),
        CAST(:firsts AS bigint[]), CAST(:lasts AS bigint[])
    ) AS sent (tenant_id, user_id, run_id, first, last)
    WHERE outbox.tenant_id = sent.tenant_id AND outbox.user_id = sent.user_id AND outbox.run_id = sent.run_id
      AND outbox.position BETWEEN sent.first AND sent.last
""")


@dataclass(frozen=True, slots=True)
class Held:
    """A run whose lease was renewed."""

    run_id: str
    epoch: int
    cancel_requested: bool
    cancel_reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """What `finish` found."""

    ended: str
    """FINISHED, CANCELLING or STALE."""
    reason: str
    """The user's, to cancel."""
    waiting: bool
    """The user has runs that could be claimed now."""
    position: int
    """The last event's, in the outbox."""
    worked_seconds: float
    """From the first start to the end, without waiting."""
    overtakes: bool
    """Others have put events into the outbox since the claim: the relay must send those first."""


@dataclass(frozen=True, slots=True)
class Retried:
    """What `retry` found."""

    ended: str
    """RETRIED, CANCELLING or STALE."""
    reason: str
    """The user's, to cancel."""
    position: int
    """The last event's, in the outbox."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """A run that was ended at its deadline without a worker."""

    tenant_id: str
    user_id: str
    run_id: str
    agent: str


@dataclass(frozen=True, slots=True)
class Expired:
    """A run whose worker is lost."""

    tenant_id: str
    user_id: str
    run_id: str
    agent: str
    epoch: int
    cancelling: bool
    cancel_reason: str
    requeued: bool
    hopeless: bool
    """It has lost as many workers as it may."""


@dataclass(frozen=True, slots=True)
class Unsent:
    """An event that is not in its user's log, as far as is known, and the run it tells of."""

    tenant_id: str
    user_id: str
    run_id: str
    position: int
    event: bytes
    """Empty: the run's end, which no worker has told; the rest of the row says what it was."""
    thread_id: str
    agent: str
    epoch: int
    grant: bytes
    state: str
    error_reason: str
    error_message: str
    finish_time: datetime | None
    worked_seconds: float | None
    """None when it never began, or is not over."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What is at these positions in the outbox of this run is in its user's log."""

    tenant_id: str
    user_id: str
    run_id: str
    last: int
    first: int = 0


class Queue:
    """The queue as one worker sees it. Every method is one transaction; UNAVAILABLE without a database.

    `versions` are those that the worker's agents state, by name: what a run begins with is kept with it.
    """

    def __init__(self, engine: Engine, worker: str, versions: Mapping[str, str] | None = None) -> None:
        self._engine = engine
        self.worker = worker
        self._versions = json.dumps(dict(versions or {}))

    async def claim(self, count: int, *, lease_seconds: float, running_limit: int) -> list[ClaimedRun]:
        """Takes up to `count` runs, the oldest of each of the users who have waited longest, and none above a tenant's limit."""
        values = {
            "count": count,
            "worker": self.worker,
            "lease_seconds": lease_seconds,
            "running_limit": running_limit,
            "versions": self._versions,
        }
        return [ClaimedRun(*row) for row in await self._execute(CLAIM, values)]

    async def renew(self, run_ids: Sequence[str], lease_seconds: float) -> list[Held]:
        """Keeps the runs that are still this worker's; those that are missing in the answer are lost."""
        values = {"worker": self.worker, "run_ids": list(run_ids), "lease_seconds": lease_seconds}
        return [Held(*row) for row in await self._execute(RENEW, values)]

    async def finish(
        self,
        run: ClaimedRun | Expired,
        outcome: Outcome,
        events: Sequence[bytes],
        *,
        only_expired: bool = False,
        thread_state: str | None = None,
        cancel_report: str | None = None,
    ) -> Ended:
        """Ends the run if this attempt holds it, and puts its last events into the outbox, in one commit.

        With it comes what the run leaves in its thread (None: what was there stays) and, of a cancelled one, what its parts came to.
        """
        values = {
            **_key(run),
            "epoch": run.epoch,
            "only_expired": only_expired,
            "state": str(outcome.state),
            "result_json": outcome.result_json or None,
            "error_reason": outcome.reason or None,
            "error_message": outcome.message if outcome.reason else None,
            "events": list(events),
            "thread_state": thread_state,
            "cancel_report": cancel_report,
            "unsent_position": 0 if isinstance(run, Expired) else run.unsent_position,
        }
        [row] = await self._execute(FINISH, values)
        return Ended(*row)

    async def retry(self, run: ClaimedRun, delay_seconds: float, events: Sequence[bytes]) -> Retried:
        """Puts a run that has failed back at its place in the queue, for after the delay; `events` are what it has told by then."""
        values = {**_key(run), "epoch": run.epoch, "delay_seconds": delay_seconds, "events": list(events)}
        [row] = await self._execute(RETRY, values)
        return Retried(*row)

    async def thread_state(self, run: ClaimedRun) -> str:
        """What the runs before have left in the thread, as JSON; "" when they have left nothing."""
        values = {"tenant_id": run.tenant_id, "user_id": run.user_id, "thread_id": run.thread_id}
        rows = await self._execute(THREAD_STATE, values)
        return str(rows[0][0]) if rows else ""

    async def wake_due(self, count: int) -> int:
        """Takes in the runs of up to `count` users whose time has come; returns how many can be claimed now."""
        [row] = await self._execute(WAKE_DUE, {"count": count})
        return int(row[0])

    async def end_overdue(self, count: int) -> list[Overdue]:
        """Ends up to `count` runs that no worker holds and that are past their deadlines."""
        return [Overdue(*row) for row in await self._execute(END_OVERDUE, {"count": count})]

    async def give_back(self, run_ids: Sequence[str]) -> int:
        """Puts runs of this worker back into the queue; returns how many."""
        [row] = await self._execute(GIVE_BACK, {"worker": self.worker, "run_ids": list(run_ids)})
        return int(row[0])

    async def reap(self, max_attempts: int) -> list[Expired]:
        """Requeues the runs of lost workers; those that cannot go on are only told, for the caller to end them."""
        return [Expired(*row) for row in await self._execute(REAP, {"max_attempts": max_attempts})]

    async def count_in(self) -> int:
        """Counts those who waited already when their tenant got a limit; returns how many users."""
        return len(await self._execute(COUNT_IN, {}))

    async def take_due(self, count: int, hold_seconds: float) -> list[Unsent]:
        """All events of the runs that have overdue ones, in order; nobody else is given them for `hold_seconds`."""
        return [Unsent(*row) for row in await self._execute(TAKE_DUE, {"count": count, "hold_seconds": hold_seconds})]

    async def delete_sent(self, sent: Iterable[Sent]) -> None:
        """Forgets what is in the users' logs."""
        rows = list(sent)
        values = {
            "tenant_ids": [row.tenant_id for row in rows],
            "user_ids": [row.user_id for row in rows],
            "run_ids": [row.run_id for row in rows],
            "firsts": [row.first for row in rows],
            "lasts": [row.last for row in rows],
        }
        await self._execute(DELETE_SENT, values)

    async def _execute(self, statement: TextClause, values: dict[str, Any]) -> Sequence[Any]:
        # Each of these is one statement, and so a transaction of its own.
        async with database_errors(), self._engine.connect() as connection:
            return await connection.execute(statement, values)


def _key(run: ClaimedRun | Expired) -> dict[str, Any]:
    return {"tenant_id": run.tenant_id, "user_id": run.user_id, "run_id": run.run_id}
