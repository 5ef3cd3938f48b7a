"""What event-stream does, one method per RPC; it owns the transactions. The user is always the verified one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel_chassis.identity import UserContext
from carrel_events.domain import START, Append, Appended, Cursor, Filter, run_not_found, stale_attempt
from carrel_events.group_commit import GroupCommit
from carrel_events.hub import Hub
from carrel_events.log_reader import LogReader, Page
from carrel_events.open_streams import OpenStreams
from carrel_events.publisher import Publisher
from carrel_events.records import admit, to_new_event
from carrel_events.retention import Retention
from carrel_events.run_state import RunFold
from carrel_events.settings import EventsSettings
from carrel_events.stream import EventStream, Feed
from carrel_events.tripwire import Tripwire

_LIST_PAGE_BYTES = 3 * 1024 * 1024
"""A page goes out as one message: it must stay below the greatest one."""


class EventOperations:
    """Append, list, fold, erase, subscribe."""

    def __init__(
        self,
        log: LogReader,
        commits: GroupCommit,
        retention: Retention,
        publisher: Publisher,
        tripwire: Tripwire,
        hub: Hub,
        settings: EventsSettings,
        clock: Callable[[], float],
    ) -> None:
        self._log = log
        self._commits = commits
        self._retention = retention
        self._publisher = publisher
        self._tripwire = tripwire
        self._hub = hub
        self._settings = settings
        self._clock = clock
        self._open_streams = OpenStreams(settings.open_streams_per_user)

    async def append(self, user: UserContext, sent: Sequence[event_pb2.Event]) -> Appended:
        """Adds what is new to the user's log; live copies of it are on their way. Raises STALE_ATTEMPT and what `admit` raises."""
        events = admit(sent, user, self._clock())
        appended = await self._commits.append(Append(user, tuple(map(to_new_event, events.values()))))
        if appended.stale:
            raise stale_attempt(user.run_id, user.attempt)
        return appended

    async def list(self, user: UserContext, call_id: str, after: Cursor, wanted: Filter, page_size: int) -> Page:
        """One page of the user's log. Raises HISTORY_TRUNCATED and CURSOR_INVALID."""
        return await self._log.read(user, after, wanted, call_id, page_size, _LIST_PAGE_BYTES)

    async def run_state(self, user: UserContext, call_id: str, run_id: str) -> tuple[pb.RunState, Cursor]:
        """What is known of a run, and where to go on. Raises RUN_NOT_FOUND."""
        fold, position, more = RunFold(), START, True
        while more:
            page = await self._log.read(user, position, Filter(run_id=run_id), call_id)
            fold.add(frame.event() for frame in self._tripwire.own_events(user, page.frames))
            position, more = page.position, page.more
        if fold.empty:
            raise run_not_found(run_id)
        return fold.state(), position

    async def erase(self, tenant_id: str, user_id: str) -> int:
        """Removes a user's events and ends their streams; returns how many events there were."""
        erased, begin = await self._retention.erase(tenant_id, user_id)
        if begin is not None:
            await self._publisher.begun_anew((tenant_id, user_id), begin)
        return erased

    async def subscribe(
        self,
        user: UserContext,
        call_id: str,
        after: Cursor,
        wanted: Filter,
        stopping: asyncio.Event,
        *,
        merges: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """The user's events for ever. Raises LIMIT_EXCEEDED, HISTORY_TRUNCATED, CURSOR_INVALID, and UNAVAILABLE once `stopping` is set."""

        async def read(position: Cursor, wanted: Filter) -> Page:
            return await self._log.read(user, position, wanted, call_id)

        # The copies first: what is appended while the log is read is not missed.
        with self._open_streams.one_of(user):
            async with self._hub.subscribe(user, merges) as (channel, tap):
                feed = Feed(read, channel, tap, after, wanted)
                stream = EventStream(feed, tap, stopping, self._settings.heartbeat_seconds)
                async with aclosing(stream.pages()) as pages:
                    async for page in pages:
                        yield page
