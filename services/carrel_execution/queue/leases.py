"""Leases: this worker says that it lives, and the runs of those that do not say so any more go back into the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_execution import domain
from carrel_execution.attempt import events
from carrel_execution.domain import Outcome
from carrel_execution.queue.store import Expired, Queue
from carrel_execution.queue.waiting import woken
from carrel_execution.queue.worker import Worker
from carrel_execution.runs.statistics import RunStatistics
from carrel_execution.settings import ExecutionSettings

_RETRY_SECONDS = 0.3
_REAP_SECONDS = 0.5
"""How often it looks for the runs of lost workers: a small index read, and the time by which they go on later."""


class Leases:
    """Renews three times in a lease, in one statement for all runs of the process, over a connection that nothing else uses."""

    def __init__(
        self,
        queue: Queue,
        worker: Worker,
        statistics: RunStatistics,
        settings: ExecutionSettings,
        *,
        clock: Callable[[], float],
        on_requeued: Callable[[], None],
        on_ended: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._statistics = statistics
        self._settings = settings
        self._clock = clock
        self._on_requeued = on_requeued
        self._on_ended = on_ended
        self._asked = asyncio.Event()
        self._renewal_time = 0.0
        """By the loop's clock: when the next renewal is due."""

    def renew_soon(self) -> None:
        """Somebody says that there is something to learn."""
        self._renewal_time = 0.0
        self._asked.set()

    async def run(self) -> None:
        """For ever. First its own runs, then those of others: after an outage of the database nobody takes its own for lost."""
        while True:
            delay = _REAP_SECONDS
            try:
                await self._renew_in_time()
                await self.reap()
            except CarrelError as error:
                get_logger().warning("leases.wait", reason=error.reason)
                delay = _RETRY_SECONDS
            except Exception:
                get_logger().exception("leases.failed")
                delay = _RETRY_SECONDS
            await woken(self._asked, delay)

    async def _renew_in_time(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._renewal_time:
            self._renewal_time = now + self._settings.lease_seconds / 3
            try:
                await self.renew()
            except BaseException:
                self._renewal_time = 0.0
                raise

    async def renew(self) -> None:
        """Keeps what is ours, and learns what is to be cancelled or lost."""
        keys = list(self._worker.attempts)
        if keys:
            held = await self._queue.renew([run_id for run_id, _ in keys], self._settings.lease_seconds)
            self._worker.heed(keys, held)

    async def reap(self) -> None:
        """Takes the runs of lost workers: they go on elsewhere, or end when that has been tried often enough.

        Before that it brings in who is not counted for a tenant's limits yet, and may go on then.
        """
        requeued = await self._queue.count_in() > 0
        ended = False
        for run in await self._queue.reap(self._settings.max_attempts):
            get_logger().warning("run.worker_lost", run_id=run.run_id, attempt=run.epoch, requeued=run.requeued)
            if run.requeued:
                requeued = True
            elif (outcome := self._ending(run)) is not None:
                await self._end(run, outcome)
                ended = True
        if requeued:
            self._on_requeued()
        if ended:
            self._on_ended()

    async def _end(self, run: Expired, outcome: Outcome) -> None:
        last = events.final(run.run_id, run.agent, self._clock(), outcome)
        found = await self._queue.finish(run, outcome, [last.SerializeToString()], only_expired=True)
        if found.ended == "FINISHED":
            self._statistics.ended(run.tenant_id, run.user_id, run.agent, outcome.state, found.worked_seconds)

    def _ending(self, run: Expired) -> Outcome | None:
        if run.cancelling:
            return domain.cancelled(run.cancel_reason)
        if run.hopeless:
            return domain.died(f"What the agent ran in was lost {self._settings.max_attempts} times.")
        return None
