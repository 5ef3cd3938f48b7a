"""One user's live events in one process: a ring that all streams of the user read from. It knows no bus and no SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_events.deltas import Deltas
from carrel_events.domain import START, Cursor
from carrel_events.frames import Frame
from carrel_events.log_reader import Page
from carrel_events.ring import Ring, Rings

ReadAfter = Callable[[Cursor], Awaitable[Page]]
"""Reads a page of the user's log after a cursor, of all events."""


class Tap:
    """Where one stream draws from the channel: what wakes it, and the deltas that wait for it."""

    def __init__(self, merges: bool) -> None:
        self.wake = asyncio.Event()
        self.due = float("inf")
        """When the stream should look up at the latest, by the loop's clock: one timer for all costs less than one for each."""
        self.deltas = Deltas(merges)


class Channel:
    """The last events of the log, dense, up to `position`; what is missing in between is read from the log, once for all streams.

    The ring may have let go of any of them: a stream that needs those reads the log by itself and comes back.
    """

    def __init__(self, read: ReadAfter, rings: Rings) -> None:
        self.taps: set[Tap] = set()
        self.position: Cursor | None = None
        """Where the ring ends; None until a stream has read the log to its end."""
        self._read = read
        self._ring = Ring(rings)
        """Held for all streams of the user together."""
        self._seen = Cursor(0, 0)
        """The furthest copy that came and was not added: the log has at least this."""
        self._catching_up: asyncio.Task[None] | None = None
        self._again = False

    def begin(self, position: Cursor) -> None:
        """A stream has seen the log's end here. The first one says where the ring begins; so does the first one of a new epoch."""
        if self.position is None or self.position.epoch < position.epoch:
            self._restart(position)
        if _order(self._seen) > _order(position):
            self.look()

    def covers(self, after: Cursor) -> bool:
        """Whether a reader can go on after this cursor without the log."""
        end = self.position
        return end is not None and after.offset <= end.offset and self._reaches(after, end)

    def after(self, position: Cursor, most_events: int, most_bytes: int) -> Sequence[Frame] | None:
        """The next events after a position; None when the ring does not reach back to it, or knows another log."""
        if self.position is None or not self._reaches(position, self.position):
            return None
        return self._ring.part(position.offset - self._first() + 1, most_events, most_bytes)

    def _reaches(self, position: Cursor, end: Cursor) -> bool:
        # Before the first event all logs are one: the start is a place in this one if the ring has its first event.
        return position.offset >= self._first() - 1 and (position.epoch == end.epoch or position == START)

    def deliver(self, frames: Sequence[Frame]) -> None:
        """Takes live copies, in whatever order and completeness they come."""
        for frame in frames:
            if frame.offset:
                self._add(frame)
            else:
                self._pass_on(frame)
        self.wake()

    def check(self, head: Cursor | None) -> None:
        """The log stands here: a copy that never came is read."""
        end = self.position
        if head is not None and end is not None and (head.epoch != end.epoch or head.offset > end.offset):
            self.look()

    def look(self) -> None:
        """Reads from the log what comes after the ring; while that is under way, once more after it."""
        self._again = True
        if self._catching_up is None or self._catching_up.done():
            self._catching_up = asyncio.create_task(self._catch_up())

    def wake(self) -> None:
        """Lets all streams look for what is new."""
        for tap in self.taps:
            tap.wake.set()

    def close(self) -> None:
        """Nobody reads any more, and nothing is kept of what may still come."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._restart(None)

    def _first(self) -> int:
        assert self.position is not None
        return self.position.offset - len(self._ring) + 1

    def _add(self, frame: Frame) -> None:
        if self.position == START and frame.offset == 1:
            # There was no log until now: this is its first event.
            self._restart(Cursor(frame.epoch, 0))
        end = self.position
        if end is not None and frame.epoch == end.epoch and frame.offset <= end.offset:
            return
        if end is None or frame.epoch != end.epoch or frame.offset > end.offset + 1:
            self._seen = max(self._seen, frame.cursor, key=_order)
            if end is not None:
                self.look()
            return
        self._ring.add(frame)
        self.position = frame.cursor

    def _pass_on(self, delta: Frame) -> None:
        after_offset = self.position.offset if self.position is not None else 0
        for tap in self.taps:
            tap.deltas.put(after_offset, delta)

    def _restart(self, position: Cursor | None) -> None:
        self._ring.clear()
        self.position = position

    async def _catch_up(self) -> None:
        while self._again and self.position is not None:
            self._again = False
            try:
                page = await self._read(self.position)
            except CarrelError as error:
                # Without a database the next check comes back here. What the log refuses, each stream must hear from it by itself.
                if error.reason == "HISTORY_TRUNCATED":
                    self._restart(None)
                get_logger().info("events.not_caught_up", reason=error.reason)
                break
            self._take_over(page)
            self._again = self._again or page.more
        self.wake()

    def _take_over(self, page: Page) -> None:
        if self.position is not None and page.frames and page.frames[0].epoch != self.position.epoch:
            # The log's first events: until now there was none.
            self._restart(Cursor(page.frames[0].epoch, page.frames[0].offset - 1))
        for frame in page.frames:
            self._add(frame)
        self.wake()


def _order(cursor: Cursor) -> tuple[int, int]:
    """A later log comes after all of an earlier one."""
    return cursor.epoch, cursor.offset
