"""What the clock alone brings about: delayed runs that may begin, and runs whose deadline passes while no worker holds
them, and questions that nobody has answered in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_execution.journal.store import JournalStore
from carrel_execution.queue.store import Queue

_AT_ONCE = 200
"""How many users, or runs, are taken in one statement."""


class Sweeps:
    """Looks at the clock as often as workers look at the queue. Every process does; what one has locked the others pass by."""

    def __init__(
        self,
        queue: Queue,
        journal: JournalStore,
        poll_seconds: float,
        *,
        clock: Callable[[], float],
        on_ready: Callable[[], None],
        on_ended: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._journal = journal
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._on_ready = on_ready
        self._on_ended = on_ended

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.sweep()
            except CarrelError as error:
                get_logger().warning("sweeps.wait", reason=error.reason)
            except Exception:
                get_logger().exception("sweeps.failed")
            await asyncio.sleep(self._poll_seconds)

    async def sweep(self) -> None:
        """Takes in all that is due now. A run that is ended may let another of its thread begin."""
        ended = False
        while await self._queue.end_overdue(_AT_ONCE):
            ended = True
        woken = await self._queue.wake_due(_AT_ONCE)
        expired = await self._journal.expire(self._clock())
        if ended or expired:
            self._on_ended()
        if woken or ended or expired:
            self._on_ready()
