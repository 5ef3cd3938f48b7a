"""One reader's stream: the log from a cursor on, then the user's channel, as one sequence in which every event comes once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from carrel_chassis.errors import CarrelError, Kind
from carrel_events.channel import Channel, Tap
from carrel_events.domain import Cursor, Filter
from carrel_events.frames import Frame
from carrel_events.log_reader import PAGE_BYTES, PAGE_EVENTS, Page

ReadLog = Callable[[Cursor, Filter], Awaitable[Page]]
"""Reads a page after a cursor in a database session of its own; raises HISTORY_TRUNCATED or CURSOR_INVALID."""


class Feed:
    """What comes next for a reader: from the log while it is behind, from the channel when it is abreast."""

    def __init__(self, read: ReadLog, channel: Channel, tap: Tap, after: Cursor, wanted: Filter) -> None:
        self.position = after
        self.behind = not channel.covers(after)
        """The channel does not reach back to the position."""
        self._read = read
        self._channel = channel
        self._tap = tap
        self._wanted = wanted

    async def next(self) -> Sequence[Frame]:
        """The wanted events that there are now; moves the position over them and over those that are not wanted."""
        if not self.behind:
            frames = self._channel.after(self.position, PAGE_EVENTS, PAGE_BYTES)
            if frames is not None:
                return self._live(frames)
        return await self._from_log()

    async def _from_log(self) -> Sequence[Frame]:
        self._tap.deltas.forget()
        page = await self._read(self.position, self._wanted)
        self.position, self.behind = page.position, page.more
        if not page.more:
            self._channel.begin(page.position)
        return page.frames

    def _live(self, frames: Sequence[Frame]) -> list[Frame]:
        """The deltas that wait go where they came between the events."""
        deltas = self._tap.deltas
        found: list[Frame] = []
        for frame in frames:
            if deltas:
                found += deltas.take(frame.offset)
            found.append(frame)
        if frames:
            self.position = frames[-1].cursor
        if deltas:
            found += deltas.take(self.position.offset + 1)
        wants = self._wanted.wants
        return [frame for frame in found if wants(frame.thread_id, frame.run_id, frame.type)]


class EventStream:
    """The life of one stream: what is new, heartbeats, and an end that names the position."""

    def __init__(self, feed: Feed, tap: Tap, stopping: asyncio.Event, heartbeat_seconds: float) -> None:
        self._feed = feed
        self._tap = tap
        self._stopping = stopping
        self._heartbeat_seconds = heartbeat_seconds

    async def pages(self) -> AsyncGenerator[Page, None]:
        """Pages for ever, the first one at once; one without events is a heartbeat. Ends only by UNAVAILABLE, when the server drains,
        or by what the log refuses."""
        wake, self._tap.due = self._tap.wake, float("-inf")
        while True:
            wake.clear()
            if self._stopping.is_set():
                raise _draining(self._feed.position)
            frames = await self._feed.next()
            if frames or _now() >= self._tap.due:
                yield Page(frames, self._feed.position)
                self._tap.due = _now() + self._heartbeat_seconds
            elif not self._feed.behind:
                await wake.wait()


def _now() -> float:
    """The clock of waits: the loop's own, in seconds."""
    return asyncio.get_running_loop().time()


def _draining(position: Cursor) -> CarrelError:
    return CarrelError(
        Kind.UNAVAILABLE,
        "UNAVAILABLE",
        "The server is stopping; subscribe again after the last position.",
        metadata=position.metadata(),
        retry_seconds=0.1,
    )
