"""What event-stream does, one method per RPC; it owns the transactions. The user is always the verified one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from carrel.api.events.v1 import event_pb2
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_events import repository
from carrel_events.domain import Appended, Cursor, Filter, check_cursor, stale_attempt
from carrel_events.hub import Hub
from carrel_events.open_streams import OpenStreams
from carrel_events.records import admit, in_batches, to_event, to_new_event
from carrel_events.settings import EventsSettings
from carrel_events.stream import EventStream, Feed, Page

_STREAM_PAGE_EVENTS = 500
_STREAM_PAGE_BYTES = 1024 * 1024
_LIST_PAGE_BYTES = 3 * 1024 * 1024
"""A page goes out as one message: it must stay below the greatest one."""
_COPIES_BYTES = 512 * 1024
"""NATS servers take 1 MiB in a message unless they are told otherwise."""


class EventOperations:
    """Append, list, subscribe."""

    def __init__(self, sessions: UserSessions, hub: Hub, settings: EventsSettings, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._open_streams = OpenStreams(settings.open_streams_per_user)

    async def append(self, user: UserContext, call_id: str, sent: Sequence[event_pb2.Event]) -> Appended:
        """Adds what is new to the user's log, then sends live copies of it. Raises STALE_ATTEMPT and what `admit` raises."""
        events = admit(sent, user, self._clock())
        new_events = [to_new_event(event) for event in events.values()]
        async with self._sessions.open(user, call_id) as connection:
            appended = await repository.append_events(connection, user, new_events)
        if appended is None:
            raise stale_attempt(user.run_id, user.attempt)
        await self._publish(user, [events[event_id] for event_id in appended.new_ids], appended)
        return appended

    async def list(self, user: UserContext, call_id: str, after: Cursor, wanted: Filter, page_size: int) -> Page:
        """One page of the user's log. Raises HISTORY_TRUNCATED and CURSOR_INVALID."""
        return await self._read(user, call_id, after, wanted, page_size, _LIST_PAGE_BYTES)

    async def subscribe(
        self, user: UserContext, call_id: str, after: Cursor, wanted: Filter, stopping: asyncio.Event
    ) -> AsyncGenerator[Page, None]:
        """The user's events for ever. Raises LIMIT_EXCEEDED, HISTORY_TRUNCATED, CURSOR_INVALID, and UNAVAILABLE once `stopping` is set."""

        async def read(position: Cursor, wanted: Filter) -> Page:
            return await self._read(user, call_id, position, wanted, _STREAM_PAGE_EVENTS, _STREAM_PAGE_BYTES)

        # The copies first: what is appended while the log is read waits in the queue.
        with self._open_streams.one_of(user):
            async with self._hub.subscribe(user) as live:
                feed = Feed(read, live, after, wanted)
                stream = EventStream(feed, live, self._hub, stopping, self._settings)
                async with aclosing(stream.pages()) as pages:
                    async for page in pages:
                        yield page

    async def _read(
        self, user: UserContext, call_id: str, after: Cursor, wanted: Filter, count: int, max_bytes: int
    ) -> Page:
        async with self._sessions.open(user, call_id) as connection:
            read = await repository.read_events(connection, user, after, wanted, count, max_bytes)
        check_cursor(after, read.state)
        events = [to_event(read.state.epoch, offset, body) for offset, body in read.rows]
        return Page(events, read.position(after), read.cut)

    async def _publish(self, user: UserContext, events: Sequence[event_pb2.Event], appended: Appended) -> None:
        first = appended.last_offset - len(events) + 1
        for offset, event in enumerate(events, first):
            event.cursor.epoch, event.cursor.offset = appended.epoch, offset
        for batch in in_batches(events, max_bytes=_COPIES_BYTES):
            await self._hub.publish(user, batch)
