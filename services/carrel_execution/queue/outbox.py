"""The outbox: what runs have still to tell their users is sent, even when the worker that should have sent it is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby

from carrel.api.events.v1 import event_pb2 as pb
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger
from carrel_execution.attempt import events
from carrel_execution.attempt.credentials import REFUSALS
from carrel_execution.clients import Contexts, Log, passes
from carrel_execution.domain import Outcome, State
from carrel_execution.queue.store import Queue, Sent, Unsent
from carrel_execution.queue.waiting import woken
from carrel_execution.runs.statistics import RunStatistics

_INTERVAL_SECONDS = 0.25
_HOLD_SECONDS = 1.0
_BATCH_ROWS = 200
_AT_ONCE = 16
_APPEND_SECONDS = 5.0


class Outbox:
    """Deletes what is sent, in bulk, and relays what is overdue. To send twice is harmless: the log knows the ids of its events."""

    def __init__(self, queue: Queue, contexts: Contexts, log: Log, statistics: RunStatistics) -> None:
        self._queue = queue
        self._statistics = statistics
        self._contexts = contexts
        self._log = log
        self._sent: list[Sent] = []
        self._kick = asyncio.Event()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def sent(self, sent: Sent) -> None:
        """A part of the outbox of a run is in its user's log; its rows can go."""
        self._sent.append(sent)

    def kick(self) -> None:
        """There is something to send now."""
        self._kick.set()

    async def run(self) -> None:
        """For ever, four times a second or when kicked."""
        while True:
            try:
                await self.delete_sent()  # first: what was just sent by its worker need not be sent again
                due = await self._queue.take_due(_BATCH_ROWS, _HOLD_SECONDS)
                await self._relay(due)
                if len(due) >= _BATCH_ROWS:
                    continue
            except CarrelError as error:
                get_logger().warning("outbox.waits", reason=error.reason)
            except Exception:
                get_logger().exception("outbox.failed")
            await woken(self._kick, _INTERVAL_SECONDS)

    async def delete_sent(self) -> None:
        """Deletes the rows of what was sent, in one statement."""
        sent, self._sent = self._sent, []
        if not sent:
            return
        try:
            await self._queue.delete_sent(sent)
        except Exception:
            self._sent += sent
            raise

    async def _relay(self, due: Sequence[Unsent]) -> None:
        runs = [list(rows) for _, rows in groupby(due, lambda row: (row.tenant_id, row.user_id, row.run_id))]
        await asyncio.gather(*(self._relay_run(rows) for rows in runs))

    async def _relay_run(self, rows: Sequence[Unsent]) -> None:
        last = rows[-1]
        done = Sent(last.tenant_id, last.user_id, last.run_id, last.position, rows[0].position)
        try:
            async with self._turns:
                await self._append(rows)
        except _GrantRefused as refusal:
            get_logger().error("outbox.dropped", run_id=last.run_id, reason=refusal.reason, count=len(rows))
        except CarrelError as error:
            if passes(error) or error.kind is Kind.UNAUTHENTICATED or error.reason == "STALE_ATTEMPT":
                get_logger().warning("outbox.retried", run_id=last.run_id, reason=error.reason)
                return
            get_logger().error("outbox.dropped", run_id=last.run_id, reason=error.reason, count=len(rows))
        self.sent(done)
        self._count(rows)

    def _count(self, rows: Sequence[Unsent]) -> None:
        """Runs that ended without a worker, by a cancel or a deadline, are counted here: there is nobody else who hears of all of them."""
        for row in rows:
            if not row.event:
                self._statistics.ended(row.tenant_id, row.user_id, row.agent, State(row.state), row.worked_seconds)

    async def _append(self, rows: Sequence[Unsent]) -> None:
        run = rows[0]
        try:
            credential = await self._contexts.for_attempt(
                run.grant, run.run_id, run.thread_id, run.agent, max(run.epoch, 1), closing=True
            )
        except CarrelError as error:
            if error.kind in REFUSALS:
                raise _GrantRefused(error.reason) from None
            raise
        for batch in events.batches(_event(row) for row in rows):
            await self._log.append(credential.signed, batch, _APPEND_SECONDS)


class _GrantRefused(Exception):
    """Nobody can write for this user any more."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _event(row: Unsent) -> pb.Event:
    return pb.Event.FromString(row.event) if row.event else final_event(row)


def final_event(row: Unsent) -> pb.Event:
    """The end of a run that no worker held: the run itself says what it was."""
    if row.finish_time is None:
        raise ValueError(f"{row.run_id} is not over")
    outcome = Outcome(State(row.state), reason=row.error_reason, message=row.error_message)
    return events.final(row.run_id, row.agent, row.finish_time.timestamp(), outcome)
