"""What an idle subscriber costs: the memory of event-stream with 10,000 streams of 10,000 users, against that with none."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from typing import Any

import psutil

from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.rpc.channel import open_channel
from tests.bench.events import bare_server
from tests.bench.events_users import Crowd, User, crowd
from tests.bench.report import Figure

USERS = int(os.environ.get("CARREL_BENCH_IDLE_USERS", "10000"))
"""Fewer make it quicker; the figure is per subscriber."""
AT_ONCE = 200


async def _open(users: list[User]) -> list[Any]:
    async def one(user: User) -> Any:
        stream = user.subscribe()
        await stream.read()
        return stream

    return list(await asyncio.gather(*map(one, users)))


async def _measure(people: Crowd, bare: float) -> list[Figure]:
    process = psutil.Process(people.system.stack.pids()["events"])
    warm = await _open(people.users(AT_ONCE))
    before = process.memory_info().rss
    begin, streams = time.perf_counter(), []
    for _ in range(USERS // AT_ONCE):
        streams += await _open(people.users(AT_ONCE))
    opened = len(streams) / (time.perf_counter() - begin)
    await asyncio.sleep(5)
    after, cpu = process.memory_info().rss, process.cpu_times()
    await asyncio.sleep(10)
    now = process.cpu_times()
    busy = (now.user + now.system - cpu.user - cpu.system) / 10
    for stream in [*warm, *streams]:
        stream.cancel()
    each = (after - before) / len(streams) / 1024
    conditions = f"{len(streams)} users with a stream each, 100 streams a connection"
    return [
        Figure("events/idle memory", each, "KB each", "< 30", bare, each / bare, conditions),
        Figure("events/idle CPU", busy * 100, "% of a core", conditions=f"{conditions}; heartbeats every 15 s"),
        Figure("events/idle opened", opened, "streams/s", conditions=conditions),
    ]


async def _bare_memory() -> float:
    """KB of a stream that only waits, in a server of grpc.aio alone."""
    async with bare_server() as (address, pid):
        process, channels = psutil.Process(pid), []

        async def open_streams(count: int) -> list[Any]:
            streams = []
            for _ in range(count // 100):
                channels.append(open_channel(address))
                stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(channels[-1])
                calls: list[Any] = [stub.Subscribe(pb.SubscribeRequest()) for _ in range(100)]
                await asyncio.gather(*(call.initial_metadata() for call in calls))
                streams += calls
            return streams

        kept = await open_streams(AT_ONCE)
        before = process.memory_info().rss
        kept += await open_streams(USERS)
        after = process.memory_info().rss
        for call in kept:
            call.cancel()
        for channel in channels:
            await channel.close()
    return (after - before) / USERS / 1024


async def measure() -> list[Figure]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        bare = await _bare_memory()
        async with crowd() as people:
            return await _measure(people, bare)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
