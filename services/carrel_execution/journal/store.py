"""The statements on journals and waits, across users: what attempts write and read. Steps of all runs of a process go in one commit."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import TextClause, text

from carrel.replay import Answered, Ask, Journal, StepKind, StepRecord, StepState, WaitKind, WaitState
from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_execution.attempt import events
from carrel_execution.domain import ClaimedRun

_BATCH_STEPS = 500
_BATCH_BYTES = 8 * 1024 * 1024
_EXPIRED_AT_ONCE = 100

WRITE = text("""
    SELECT place, state, cancel_reason FROM write_steps(:tenant_ids, :user_ids, :run_ids, :epochs, :step_ids, :kinds, :names,
        :input_digests, :states, :results, :error_kinds, :error_reasons, :error_messages, :retries, :begin_times)
""")
READ_STEPS = text("""
    SELECT step_id, kind, name, input_digest, state, result_json, error_kind, error_reason, error_message, retry FROM journal_step
    WHERE tenant_id = :tenant_id AND user_id = :user_id AND run_id = :run_id
""")
_ANSWERED = """wait_id, step_id, kind, state, input_digest, tool, arguments_digest, answer_json,
    CAST(coalesce(extract(epoch FROM resolve_time), 0) AS float8) AS resolve_time,
    CAST(extract(epoch FROM expire_time) AS float8) AS expire_time"""
READ_WAITS = text(f"""
    SELECT {_ANSWERED} FROM wait WHERE tenant_id = :tenant_id AND user_id = :user_id AND run_id = :run_id
""")
PARK = text("""
    SELECT parked, reason, coalesce(position, 0)
    FROM park_run(:tenant_id, :user_id, :run_id, :epoch, CAST(CAST(:waits AS text) AS json), :events)
""")
FIND_EXPIRED = text(f"""
    SELECT tenant_id, user_id, run_id, agent, {_ANSWERED} FROM wait
    WHERE state = 'PENDING' AND expire_time <= now() ORDER BY wait.expire_time LIMIT :count
""")
EXPIRE = text("""
    SELECT count(*) FILTER (WHERE expire_wait(tenant_id, user_id, wait_id, event)) FROM (
        SELECT * FROM unnest(CAST(:tenant_ids AS text[]), CAST(:user_ids AS text[]), CAST(:wait_ids AS text[]), CAST(:events AS bytea[]))
            AS late (tenant_id, user_id, wait_id, event)
        ORDER BY tenant_id, user_id  -- each of them locks a slot: all lock in this order
    ) AS late
""")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands with the attempt that wrote to its journal: only for a RUNNING one has anything been written."""

    state: str
    """RUNNING, CANCELLING, or STALE: the attempt no longer holds it."""
    cancel_reason: str = ""


_STALE = Standing("STALE")


@dataclass(frozen=True, slots=True)
class Parked:
    """What became of a run that asked its user: WAITING, QUEUED (an answer was there already), CANCELLING or STALE."""

    parked: str
    reason: str
    """The user's, to cancel."""
    position: int
    """Of the last of its events in the outbox."""


@dataclass(slots=True)
class _Writing:
    run: ClaimedRun
    step: StepRecord
    done: asyncio.Future[Standing]


class JournalStore:
    """What is written waits for nothing but the batch before it. UNAVAILABLE without a database: all of it may be repeated."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[_Writing] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def write(self, run: ClaimedRun, steps: Sequence[StepRecord]) -> Standing:
        """Returns when the steps are durable, or the run is no longer this attempt's to write for."""
        loop = asyncio.get_running_loop()
        writings = [_Writing(run, step, loop.create_future()) for step in steps]
        self._waiting.extend(writings)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        standings = await asyncio.gather(*(writing.done for writing in writings))
        return next((standing for standing in standings if standing.state != "RUNNING"), standings[0])

    async def _write_all(self) -> None:
        """Batch after batch, until nothing waits. What comes while one is under way is the next."""
        try:
            while self._waiting:
                batch = self._next_batch()
                try:
                    standings = await self._write_batch(batch)
                except Exception as error:
                    for writing in batch:
                        if not writing.done.done():
                            writing.done.set_exception(error)
                    continue
                for place, writing in enumerate(batch, 1):
                    if not writing.done.done():
                        writing.done.set_result(standings.get(place, _STALE))
        finally:
            self._writer = None

    def _next_batch(self) -> list[_Writing]:
        batch: list[_Writing] = []
        size = 0
        while self._waiting and len(batch) < _BATCH_STEPS and size < _BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].step.result_json)
        return batch

    async def _write_batch(self, batch: Sequence[_Writing]) -> dict[int, Standing]:
        def column(value: Callable[[_Writing], Any]) -> list[Any]:
            return [value(writing) for writing in batch]

        values = {
            "tenant_ids": column(lambda each: each.run.tenant_id),
            "user_ids": column(lambda each: each.run.user_id),
            "run_ids": column(lambda each: each.run.run_id),
            "epochs": column(lambda each: each.run.epoch),
            "step_ids": column(lambda each: each.step.step_id),
            "kinds": column(lambda each: each.step.kind),
            "names": column(lambda each: each.step.name),
            "input_digests": column(lambda each: each.step.input_digest),
            "states": column(lambda each: each.step.state),
            "results": column(lambda each: each.step.result_json),
            "error_kinds": column(lambda each: each.step.error_kind),
            "error_reasons": column(lambda each: each.step.error_reason),
            "error_messages": column(lambda each: each.step.error_message),
            "retries": column(lambda each: each.step.retry),
            "begin_times": column(lambda each: each.step.begin_time),
        }
        rows = await self._execute(WRITE, values)
        return {row.place: Standing(row.state, row.cancel_reason) for row in rows}

    async def read(self, run: ClaimedRun) -> Journal:
        """What the attempts before this one have left. Nothing of theirs can come after it: the run is held by this one."""
        owner = {"tenant_id": run.tenant_id, "user_id": run.user_id, "run_id": run.run_id}
        steps = [_step(row) for row in await self._execute(READ_STEPS, owner)]
        waits = [_answered(row) for row in await self._execute(READ_WAITS, owner)]
        return Journal(steps, waits, retry=run.retries)

    async def park(self, run: ClaimedRun, asks: Sequence[Ask], last: Sequence[bytes]) -> Parked:
        """Lets go of the run until its user answers, and puts what it has still to tell into the outbox, in one commit."""
        waits = [{**asdict(ask), "thread_id": run.thread_id, "expire_seconds": ask.expire_time} for ask in asks]
        values = {
            "tenant_id": run.tenant_id,
            "user_id": run.user_id,
            "run_id": run.run_id,
            "epoch": run.epoch,
            "waits": json.dumps(waits),
            "events": list(last),
        }
        [row] = await self._execute(PARK, values)
        return Parked(*row)

    async def expire(self, now: float) -> int:
        """Ends the waits that nobody has answered in time: their runs go on. Returns how many; there may be more."""
        late = await self._execute(FIND_EXPIRED, {"count": _EXPIRED_AT_ONCE})
        if not late:
            return 0
        values = {
            "tenant_ids": [row.tenant_id for row in late],
            "user_ids": [row.user_id for row in late],
            "wait_ids": [row.wait_id for row in late],
            "events": [_expired(row, now) for row in late],
        }
        [row] = await self._execute(EXPIRE, values)
        return int(row[0])

    async def _execute(self, statement: TextClause, values: dict[str, Any]) -> Sequence[Any]:
        # Each of these is one statement, and so a transaction of its own.
        async with database_errors(), self._engine.connect() as connection:
            return await connection.execute(statement, values)


def _step(row: Any) -> StepRecord:
    return StepRecord(
        step_id=row.step_id,
        kind=StepKind(row.kind),
        name=row.name,
        input_digest=row.input_digest,
        state=StepState(row.state),
        result_json=row.result_json,
        error_kind=row.error_kind,
        error_reason=row.error_reason,
        error_message=row.error_message,
        retry=row.retry,
    )


def _answered(row: Any, state: str = "") -> Answered:
    return Answered(
        wait_id=row.wait_id,
        step_id=row.step_id,
        kind=WaitKind(row.kind),
        state=WaitState(state or row.state),
        input_digest=row.input_digest,
        tool=row.tool,
        arguments_digest=row.arguments_digest,
        answer_json=row.answer_json,
        resolve_time=row.resolve_time,
        expire_time=row.expire_time,
    )


def _expired(row: Any, now: float) -> bytes:
    return events.answered(row.run_id, row.agent, now, _answered(row, "EXPIRED")).SerializeToString()
