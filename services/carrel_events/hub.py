"""Live copies of events, from the bus to the streams of this process. They are hints: what is lost here is read from the log."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from google.protobuf.message import DecodeError

from carrel.api.events.v1 import event_pb2, event_service_pb2
from carrel_chassis.bus import Bus
from carrel_chassis.identity import UserContext
from carrel_chassis.logs import get_logger
from carrel_events.tripwire import Tripwire

_QUEUE_EVENTS = 1000
_QUEUE_BYTES = 2 * 1024 * 1024
_LOOK_SECONDS = 0.25


def subject_of(user: UserContext) -> str:
    """The subject of a user's copies: a digest, because ids may hold what a subject may not."""
    owner = f"{user.tenant_id}\0{user.user_id}".encode()
    return f"carrel.events.{hashlib.sha256(owner).hexdigest()[:32]}"


class LiveQueue:
    """The copies that wait for one stream, a few at most. When there are too many it forgets them all and says so."""

    def __init__(self) -> None:
        self._events: list[event_pb2.Event] = []
        self._bytes = 0
        self._lost = False
        self._wake = asyncio.Event()

    def put(self, events: Sequence[event_pb2.Event], size: int) -> None:
        """Adds copies that have `size` bytes together."""
        if len(self._events) + len(events) > _QUEUE_EVENTS or self._bytes + size > _QUEUE_BYTES:
            self.lose()
            return
        self._events.extend(events)
        self._bytes += size
        self._wake.set()

    def lose(self) -> None:
        """Forgets the copies: the log has what they were."""
        self._events, self._bytes, self._lost = [], 0, True
        self._wake.set()

    def take(self) -> list[event_pb2.Event] | None:
        """All copies that wait; None when some were lost since the last call."""
        events, lost = self._events, self._lost
        self._events, self._bytes, self._lost = [], 0, False
        self._wake.clear()
        return None if lost else events

    def wake(self) -> None:
        """Ends the wait, without a copy."""
        self._wake.set()

    async def wait(self) -> None:
        """Returns when something has come since the last `take`."""
        await self._wake.wait()


class _Topic:
    """One user's subscription on the bus, and the queues that share it."""

    def __init__(self, user: UserContext, subscribing: asyncio.Task[Callable[[], Awaitable[None]]]) -> None:
        self.user = user
        self.subscribing = subscribing
        self.queues: set[LiveQueue] = set()


class Hub:
    """Hands each copy to the streams of its user. Made by `open_hub`."""

    def __init__(self, bus: Bus, tripwire: Tripwire) -> None:
        self._bus = bus
        self._tripwire = tripwire
        self._topics: dict[tuple[str, str], _Topic] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether copies come at all."""
        return self._bus.connected

    async def publish(self, user: UserContext, batch: Sequence[event_pb2.Event]) -> None:
        """Sends copies of events that the log has, to all processes; at most one message's worth of them."""
        last = batch[-1].cursor
        copies = event_service_pb2.SubscribeResponse(events=batch, position=last)
        await self._bus.publish(subject_of(user), copies.SerializeToString())

    @asynccontextmanager
    async def subscribe(self, user: UserContext) -> AsyncIterator[LiveQueue]:
        """The copies of this user's events, from now to the end of the block."""
        topic = self._topics.get(user.owner) or self._open(user)
        queue = LiveQueue()
        topic.queues.add(queue)
        try:
            # Shielded: another stream of the user may wait for the same.
            await asyncio.shield(topic.subscribing)
            yield queue
        finally:
            topic.queues.discard(queue)
            if not topic.queues:
                self._close(topic)

    def _open(self, user: UserContext) -> _Topic:
        async def on_message(_: str, payload: bytes) -> None:
            self._deliver(topic, payload)

        topic = _Topic(user, asyncio.create_task(self._bus.subscribe(subject_of(user), on_message)))
        self._topics[user.owner] = topic
        return topic

    def _close(self, topic: _Topic) -> None:
        """Ends the subscription beside, so that no stream that leaves has to wait."""
        if self._topics.get(topic.user.owner) is topic:
            del self._topics[topic.user.owner]
        task = asyncio.create_task(self._unsubscribe(topic))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _unsubscribe(self, topic: _Topic) -> None:
        unsubscribe = await topic.subscribing
        await unsubscribe()

    def _deliver(self, topic: _Topic, payload: bytes) -> None:
        try:
            copies = event_service_pb2.SubscribeResponse.FromString(payload).events
        except DecodeError:
            get_logger().warning("events.copy_unreadable", bytes=len(payload))
            return
        # Before any stream counts on it: a foreign copy must not take the place of the user's own event of that offset.
        events = self._tripwire.own_events(topic.user, copies)
        for queue in topic.queues:
            queue.put(events, len(payload))

    async def keep_watch(self) -> None:
        """Tells all streams when the bus goes or comes back: in between copies were lost. Runs as a task beside the server."""
        connected = self._bus.connected
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if connected != self._bus.connected:
                connected = self._bus.connected
                for topic in self._topics.values():
                    for queue in topic.queues:
                        queue.lose()

    async def close(self) -> None:
        """Waits until what was left is unsubscribed."""
        await asyncio.gather(*self._leaving, return_exceptions=True)


@asynccontextmanager
async def open_hub(bus: Bus, tripwire: Tripwire) -> AsyncIterator[Hub]:
    """A hub on this bus, until the end of the block."""
    hub = Hub(bus, tripwire)
    watch = asyncio.create_task(hub.keep_watch())
    try:
        yield hub
    finally:
        watch.cancel()
        await hub.close()
