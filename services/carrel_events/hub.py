"""Live copies of events, from writers to the streams of this process and, over the bus, to those of others. What is lost heals."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from google.protobuf.message import DecodeError

from carrel.api.events.v1 import event_service_pb2
from carrel_chassis.bus import Bus
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import UserContext
from carrel_chassis.logs import get_logger
from carrel_events.channel import Channel, Tap
from carrel_events.domain import Cursor, Filter
from carrel_events.frames import Frame
from carrel_events.log_reader import LogReader, Page
from carrel_events.ring import Rings
from carrel_events.settings import EventsSettings
from carrel_events.tripwire import Tripwire

_LOOK_SECONDS = 0.25
_LONGEST_STEP_SECONDS = 0.5
_CHECKED_AT_ONCE = 1000

Owner = tuple[str, str]
Positions = Callable[[Sequence[Owner]], Awaitable[Mapping[Owner, Cursor]]]
"""Where the logs of some users stand, in one look."""


def subject_of(owner: Owner) -> str:
    """The subject of a user's copies: a digest, because ids may hold what a subject may not."""
    digest = hashlib.sha256("\0".join(owner).encode()).hexdigest()
    return f"carrel.events.{digest[:32]}"


class _Topic:
    """One user here: the channel, the subscription that feeds it, and when its position was last checked."""

    def __init__(self, user: UserContext, channel: Channel, now: float) -> None:
        self.user = user
        self.channel = channel
        self.checked = now
        self.patience = random.uniform(0.75, 1.25)
        """Its share of the interval, so that not all are looked at in the same moment."""
        self.subscribing: asyncio.Task[Callable[[], Awaitable[None]]]


class Hub:
    """Hands each copy to the streams of its user. One topic per user with streams, however many they are."""

    def __init__(
        self, bus: Bus, tripwire: Tripwire, log: LogReader, positions: Positions, settings: EventsSettings
    ) -> None:
        self._bus = bus
        self._tripwire = tripwire
        self._log = log
        self._positions = positions
        self._settings = settings
        self._rings = Rings(settings.live_bytes)
        self._topics: dict[Owner, _Topic] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def publish(self, owner: Owner, message: bytes) -> None:
        """Hands copies of what the log has, a serialized SubscribeResponse, to the streams here and to all other processes."""
        topic = self._topics.get(owner)
        if topic is not None:
            self._deliver(topic, message)
        await self._bus.publish(subject_of(owner), message)

    @asynccontextmanager
    async def subscribe(self, user: UserContext, merges: bool) -> AsyncIterator[tuple[Channel, Tap]]:
        """The channel of this user, and a tap of one's own, to the end of the block."""
        topic = self._topics.get(user.owner) or self._open(user)
        tap = Tap(merges)
        topic.channel.taps.add(tap)
        try:
            # Shielded: another stream of the user may wait for the same.
            await asyncio.shield(topic.subscribing)
            yield topic.channel, tap
        finally:
            topic.channel.taps.discard(tap)
            if not topic.channel.taps:
                self._close(topic)

    def _open(self, user: UserContext) -> _Topic:
        async def read(after: Cursor) -> Page:
            page = await self._log.read(user, after, Filter())
            return Page(self._tripwire.own_events(user, page.frames), page.position, page.more)

        async def on_message(_: str, payload: bytes) -> None:
            self._deliver(topic, payload)

        topic = _Topic(user, Channel(read, self._rings), _now())
        topic.subscribing = asyncio.create_task(self._bus.subscribe(subject_of(user.owner), on_message))
        self._topics[user.owner] = topic
        return topic

    def _close(self, topic: _Topic) -> None:
        """Ends the subscription beside, so that no stream that leaves has to wait."""
        if self._topics.get(topic.user.owner) is topic:
            del self._topics[topic.user.owner]
        topic.channel.close()
        task = asyncio.create_task(self._unsubscribe(topic))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _unsubscribe(self, topic: _Topic) -> None:
        unsubscribe = await topic.subscribing
        await unsubscribe()

    def _deliver(self, topic: _Topic, payload: bytes) -> None:
        try:
            message = event_service_pb2.SubscribeResponse.FromString(payload)
            frames = [Frame.of(event.SerializeToString()) for event in message.events]
        except DecodeError:
            get_logger().warning("events.copy_unreadable", bytes=len(payload))
            return
        # Before any stream counts on it: a foreign copy must not take the place of the user's own event of that offset.
        topic.channel.deliver(self._tripwire.own_events(topic.user, frames))
        if not frames:
            # A log that has begun anew says so by its position alone.
            topic.channel.check(Cursor(message.position.epoch, message.position.offset))

    async def wake_on(self, stopping: asyncio.Event) -> None:
        """Wakes all streams when the server drains: each ends itself. Runs as a task beside the server."""
        await stopping.wait()
        for topic in self._topics.values():
            topic.channel.wake()

    async def keep_heartbeats(self) -> None:
        """Wakes the streams whose heartbeat is due. Runs as a task beside the server."""
        step = min(_LONGEST_STEP_SECONDS, self._settings.heartbeat_seconds / 4)
        while True:
            await asyncio.sleep(step)
            now = _now()
            for topic in self._topics.values():
                for tap in topic.channel.taps:
                    if tap.due <= now:
                        tap.wake.set()

    async def keep_positions(self) -> None:
        """Compares the positions of all users here with the log, each from time to time, and at once when the bus was away: in between
        copies were lost. Runs as a task beside the server."""
        connected = self._bus.connected
        while True:
            interval = self._interval()
            await asyncio.sleep(min(_LOOK_SECONDS, interval / 2))
            if connected != self._bus.connected:
                connected = self._bus.connected
                self._make_due()
            for topics in self._due(interval):
                await self._check(topics)

    def _interval(self) -> float:
        settings = self._settings
        return settings.idle_check_seconds if self._bus.connected else settings.disconnected_check_seconds

    def _make_due(self) -> None:
        for topic in self._topics.values():
            topic.checked = float("-inf")

    def _due(self, interval: float) -> Iterator[list[_Topic]]:
        now = _now()
        due = [topic for topic in self._topics.values() if topic.checked + interval * topic.patience <= now]
        for begin in range(0, len(due), _CHECKED_AT_ONCE):
            yield due[begin : begin + _CHECKED_AT_ONCE]

    async def _check(self, topics: Sequence[_Topic]) -> None:
        now = _now()
        try:
            heads = await self._positions([topic.user.owner for topic in topics])
        except CarrelError:
            return  # They stay due.
        for topic in topics:
            topic.checked = now
            topic.channel.check(heads.get(topic.user.owner))

    async def close(self) -> None:
        """Waits until what was left is unsubscribed."""
        await asyncio.gather(*self._leaving, return_exceptions=True)


def _now() -> float:
    """The clock of waits: the loop's own, in seconds."""
    return asyncio.get_running_loop().time()
