"""The log of a user at work: from an append to its delivery, how many appends there are in a second, and what goes out to readers."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import uvloop

from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.stack.ports import free_ports
from tests.bench.events_users import Crowd, User, cores, crowd, thought
from tests.bench.report import Figure, percentile

IDLE_APPENDS = 400
APPEND_SECONDS = 4.0
MANY_USERS = 1000
MANY_SECONDS = 8.0
EVENTS_PER_APPEND = 10
READERS = 500
FAN_OUT_SECONDS = 6.0
BARE_SECONDS = 4.0


async def _deliveries(user: User, count: int) -> list[float]:
    """Seconds from the call of an append to its arrival at an open stream, one at a time."""
    stream = user.subscribe()
    await stream.read()
    taken = []
    for _ in range(count):
        begin = time.perf_counter()
        append = asyncio.create_task(user.append())
        while not (await stream.read()).events:
            pass
        taken.append(time.perf_counter() - begin)
        await append
    stream.cancel()
    return taken


async def _append_rate(users: list[User], seconds: float, events: int = 1) -> tuple[float, list[float]]:
    """Appends per second, each user one at a time; and the seconds of each."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def loop(user: User) -> None:
        while (begin := time.perf_counter()) < end:
            await user.append(events)
            taken.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*map(loop, users))
    return len(taken) / (time.perf_counter() - begin), taken


class Readers:
    """Open streams of users, and how many events came on them."""

    def __init__(self) -> None:
        self.received = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, user: User) -> None:
        """Returns when the stream stands."""
        stream = user.subscribe()
        await stream.read()
        self._tasks.append(asyncio.create_task(self._count(stream)))

    async def _count(self, stream: Any) -> None:
        try:
            while (message := await stream.read()) is not grpc.aio.EOF:
                self.received += len(message.events)
        finally:
            stream.cancel()

    async def until(self, count: int) -> None:
        while self.received < count:  # noqa: ASYNC110  # a counter is looked at, nobody says when it is full
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _many_users(people: Crowd, bare: float) -> list[Figure]:
    """Everybody writes and reads their own, each append when the one before has its answer."""
    users, readers = people.users(MANY_USERS), Readers()
    for begin in range(0, MANY_USERS, 100):
        await asyncio.gather(*(readers.open(user) for user in users[begin : begin + 100]))
    begin_time = time.perf_counter()
    per_second, taken = await _append_rate(users, MANY_SECONDS, EVENTS_PER_APPEND)
    await readers.until(len(taken) * EVENTS_PER_APPEND)
    delivered = readers.received / (time.perf_counter() - begin_time)
    await readers.close()
    conditions = f"{MANY_USERS} users, a subscriber each, {EVENTS_PER_APPEND} events an append; {cores()}"
    return [
        Figure("events/steady", delivered, "events/s", "> 5000", bare, delivered / bare, conditions),
        Figure("events/steady appends", per_second, "appends/s", conditions=conditions),
        Figure("events/steady append p50", percentile(taken, 0.5) * 1e3, "ms", conditions=conditions),
    ]


async def _fan_out(people: Crowd, bare: float) -> list[Figure]:
    """One user with many streams: each event goes out to all of them."""
    [user], readers = people.users(1), Readers()
    channels = people.connections(user, READERS // 50)
    for number in range(READERS):
        await readers.open(channels[number % len(channels)])
    begin = time.perf_counter()
    per_second, taken = await _append_rate([user], FAN_OUT_SECONDS, EVENTS_PER_APPEND)
    await readers.until(len(taken) * EVENTS_PER_APPEND * READERS)
    delivered = readers.received / (time.perf_counter() - begin)
    await readers.close()
    conditions = f"one user, {READERS} subscribers, {EVENTS_PER_APPEND} events an append; {cores()}"
    return [
        Figure("events/fan-out", delivered, "deliveries/s", "> 50000", bare, delivered / bare, conditions),
        Figure("events/fan-out appends", per_second, "appends/s", conditions=conditions),
    ]


class _Bare(rpc.EventServiceServicer):
    """What gRPC alone does: an event for each stream in turn, as one message of its own, serialized each time."""

    def __init__(self) -> None:
        self._contexts: list[Any] = []

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> None:  # type: ignore[override]
        await context.send_initial_metadata(())
        self._contexts.append(context)
        await asyncio.Event().wait()

    async def deliver(self) -> None:
        """For ever, to all that have come."""
        message = pb.SubscribeResponse(events=[thought(1)])
        while True:
            for context in self._contexts:
                await context.write(message)
            await asyncio.sleep(0)


def _serve_bare(address: str) -> None:
    async def serve() -> None:
        server, bare = grpc.aio.server(), _Bare()
        rpc.add_EventServiceServicer_to_server(bare, server)
        server.add_insecure_port(address)
        await server.start()
        await bare.deliver()

    uvloop.run(serve())


@asynccontextmanager
async def bare_server() -> AsyncIterator[tuple[str, int]]:
    """The address and the pid of a server of its own."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    process = multiprocessing.get_context("spawn").Process(target=_serve_bare, args=(address,))
    process.start()
    try:
        yield address, process.pid or 0
    finally:
        process.kill()
        process.join()


async def bare_rate(streams: int) -> float:
    """Messages per second through bare grpc.aio with so many streams, the client on the same cores."""
    received = 0

    async def read(stub: rpc.EventServiceAsyncStub) -> None:
        nonlocal received
        call: Any = stub.Subscribe(pb.SubscribeRequest())
        try:
            while True:
                message = await call.read()
                received += len(message.events)
        finally:
            call.cancel()

    async with bare_server() as (address, _):
        channel = open_channel(address)
        await channel.channel_ready()
        stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(channel)
        tasks = [asyncio.create_task(read(stub)) for _ in range(streams)]
        await asyncio.sleep(1)
        before, begin = received, time.perf_counter()
        await asyncio.sleep(BARE_SECONDS)
        per_second = (received - before) / (time.perf_counter() - begin)
    await asyncio.gather(*tasks, return_exceptions=True)
    await channel.close()
    return per_second


async def _appends(people: Crowd) -> list[Figure]:
    figures = []
    for count in (1, 10, 100):
        users = people.users(count)
        await asyncio.gather(*(user.append() for user in users))
        per_second, taken = await _append_rate(users, APPEND_SECONDS)
        name = f"events/append {count} user{'s' if count > 1 else ''}"
        conditions = f"one event an append, each user one at a time; {cores()}"
        figures += [
            Figure(name, per_second, "appends/s", conditions=conditions),
            Figure(f"{name} p50", percentile(taken, 0.5) * 1e3, "ms", conditions=conditions),
            Figure(f"{name} p99", percentile(taken, 0.99) * 1e3, "ms", conditions=conditions),
        ]
    return figures


async def _idle(people: Crowd) -> list[Figure]:
    [user] = people.users(1)
    await _deliveries(user, 100)
    taken = await _deliveries(user, IDLE_APPENDS)
    conditions = "append to delivery, one user, one event at a time"
    return [
        Figure("events/delivery p50 idle", percentile(taken, 0.5) * 1e3, "ms", "< 3", conditions=conditions),
        Figure("events/delivery p99 idle", percentile(taken, 0.99) * 1e3, "ms", "< 15", conditions=conditions),
    ]


async def measure() -> list[Figure]:
    bare = await bare_rate(READERS)
    async with crowd(CARREL_OPEN_STREAMS_PER_USER="1000") as people:
        figures = await _idle(people) + await _appends(people)
        figures += await _many_users(people, bare) + await _fan_out(people, bare)
    conditions = f"grpc.aio alone, one message per event, {READERS} streams"
    return [*figures, Figure("events/bare stream", bare, "messages/s", conditions=conditions)]
