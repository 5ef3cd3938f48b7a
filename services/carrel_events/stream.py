"""One reader's stream: the log from a cursor on, then live copies, as one sequence in which every event comes once and in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from carrel.api.events.v1 import event_pb2
from carrel_chassis.errors import CarrelError, Kind
from carrel_events.domain import Cursor, Filter
from carrel_events.hub import Hub, LiveQueue
from carrel_events.records import in_batches
from carrel_events.settings import EventsSettings


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, the position after them, and whether the log is known to have more."""

    events: list[event_pb2.Event]
    position: Cursor
    more: bool = False


ReadLog = Callable[[Cursor, Filter], Awaitable[Page]]
"""Reads a page after a cursor in a database session of its own; raises HISTORY_TRUNCATED or CURSOR_INVALID."""


class Feed:
    """What comes next for a reader: from the log while it is behind, from live copies when it is abreast."""

    def __init__(self, read: ReadLog, live: LiveQueue, after: Cursor, wanted: Filter) -> None:
        self.position = after
        self.behind = True
        """The log may have events that the reader has not got; set it to look."""
        self._read = read
        self._live = live
        self._wanted = wanted

    async def next(self) -> list[event_pb2.Event]:
        """The wanted events that there are now; moves the position over them and over those that are not wanted."""
        return await self._from_log() if self.behind else self._from_live()

    async def _from_log(self) -> list[event_pb2.Event]:
        page = await self._read(self.position, self._wanted)
        self.position, self.behind = page.position, page.more
        return page.events

    def _from_live(self) -> list[event_pb2.Event]:
        copies = self._live.take()
        if copies is None:
            self.behind = True
            return []
        events = []
        for event in copies:
            cursor = event.cursor
            if cursor.epoch != self.position.epoch or cursor.offset > self.position.offset + 1:
                # A hole, or a log that we have not seen yet. The log has this event too, and those after it.
                self.behind = True
                break
            if cursor.offset <= self.position.offset:
                continue
            self.position = Cursor(cursor.epoch, cursor.offset)
            if self._wanted.wants(event.thread_id, event.run_id, event.type):
                events.append(event)
        return events


class EventStream:
    """The life of one stream: what is new, heartbeats, looks into the log when it is idle, and an end that names the position."""

    def __init__(
        self, feed: Feed, live: LiveQueue, hub: Hub, stopping: asyncio.Event, settings: EventsSettings
    ) -> None:
        self._feed = feed
        self._live = live
        self._hub = hub
        self._stopping = stopping
        self._settings = settings
        self._sent = float("-inf")
        self._looked = 0.0

    async def pages(self) -> AsyncGenerator[Page, None]:
        """Pages for ever, the first one at once; one without events is a heartbeat. Ends only by UNAVAILABLE, when the server drains,
        or by what the log refuses."""
        stop = asyncio.create_task(self._stopping.wait())
        stop.add_done_callback(lambda _: self._live.wake())
        try:
            while True:
                for page in await self._due():
                    yield page
                    self._sent = _now()
                if not self._feed.behind:
                    await self._wait()
        finally:
            stop.cancel()

    async def _due(self) -> list[Page]:
        """What there is to send now: events, a heartbeat, or nothing."""
        if self._stopping.is_set():
            raise _draining(self._feed.position)
        looking, begin = self._feed.behind, self._feed.position
        batches = list(in_batches(await self._feed.next()))
        if looking or self._feed.position != begin:
            self._looked = _now()
        if not batches:
            heartbeat = _now() >= self._sent + self._settings.heartbeat_seconds
            return [Page([], self._feed.position)] if heartbeat else []
        # Each message's position is what it goes up to, so that a stream may break between any two of them.
        ends = [Cursor(batch[-1].cursor.epoch, batch[-1].cursor.offset) for batch in batches[:-1]]
        return [Page(batch, end) for batch, end in zip(batches, [*ends, self._feed.position], strict=True)]

    async def _wait(self) -> None:
        """Until something has come, or it is time for a heartbeat or a look into the log."""
        settings = self._settings
        look = self._looked + (
            settings.idle_check_seconds if self._hub.connected else settings.disconnected_check_seconds
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(look, self._sent + settings.heartbeat_seconds)):
                await self._live.wait()
        if _now() >= look:
            self._feed.behind = True


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
