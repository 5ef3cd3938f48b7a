"""What the gateway adds: to a unary call, to a stream, and in memory for each stream that it holds open. The same call in turns,
straight to the service behind and through the gateway."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from carrel.api.events.v1 import event_service_pb2 as events
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.stack import Stack, StackSettings
from tests.bench.load import durations, rate
from tests.bench.report import Figure, percentile
from tests.events.desk import Run, thoughts
from tests.support.system import Person, System

ROUNDS = 5
CALLS = 300
RATE_SECONDS = 2.0
HISTORY = 10_000
STREAMS = 1000
STREAMS_EACH = 20
GATEWAY = "/carrel.api.gateway.v1.GatewayService"
Call = Callable[[], Any]


@asynccontextmanager
async def running() -> AsyncIterator[System]:
    """A system of its own, with limits that a load generator does not reach."""
    environment = {
        "CARREL_LOG_LEVEL": "WARNING",
        "CARREL_USER_CALLS_PER_SECOND": "1000000",
        "CARREL_TENANT_CALLS_PER_SECOND": "1000000",
    }
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data", service_environment=environment)) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                yield system
            finally:
                await system.close()


async def _unary(system: System, person: Person) -> list[Figure]:
    peer = system.peer("agent-execution", "gateway")
    direct = peer.channel.unary_unary("/carrel.api.runs.v1.RunService/ListAgents")
    through = system.edge.unary_unary(f"{GATEWAY}/ListAgents")
    calls: dict[str, Call] = {
        "direct": lambda: direct(b"", metadata=peer.metadata(person.signed_context), timeout=10),
        "gateway": lambda: through(b"", metadata=person.authorization, timeout=10),
    }
    p50s: dict[str, list[float]] = {name: [] for name in calls}
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            await durations(call, count=30)
            p50s[name].append(percentile(await durations(call, count=CALLS), 0.5) * 1e3)
            rates[name].append(await rate(call, at_once=32, seconds=RATE_SECONDS))
    added = statistics.median(a - b for a, b in zip(p50s["gateway"], p50s["direct"], strict=True))
    p50 = {name: statistics.median(values) for name, values in p50s.items()}
    per_second = {name: statistics.median(values) for name, values in rates.items()}
    conditions = f"ListAgents, {ROUNDS} rounds in turn, {_cores()}"
    return [
        Figure("gateway/adds to a unary call p50", added, "ms", "< 1.5", conditions=f"{conditions}, one at a time"),
        Figure("gateway/unary p50", p50["gateway"], "ms", "", p50["direct"], None, f"{conditions}, one at a time"),
        Figure(
            "gateway/unary rate",
            per_second["gateway"],
            "calls/s",
            "",
            per_second["direct"],
            per_second["gateway"] / per_second["direct"],
            f"{conditions}, 32 at once",
        ),
    ]


async def _read_history(call: Any) -> float:
    """Events per second of a stream that has them all to tell."""
    seen = 0
    begin = time.perf_counter()
    async for message in call:
        seen += len(events.SubscribeResponse.FromString(message).events)
        if seen >= HISTORY:
            break
    call.cancel()
    return seen / (time.perf_counter() - begin)


async def _read_sse(system: System, person: Person) -> float:
    """The same by server-sent events."""
    source, sink = await _sse(system.addresses["gateway_http"], person)
    seen = 0
    begin = time.perf_counter()
    while seen < HISTORY:
        seen += (await source.readline()).startswith(b"data: ")
    sink.close()
    return seen / (time.perf_counter() - begin)


async def _streams(system: System, person: Person) -> list[Figure]:
    run = await Run.of(system, person)
    for _ in range(HISTORY // 100):
        await run.append(*thoughts(100))
    peer = system.peer("event-stream", "gateway")
    direct = peer.channel.unary_stream("/carrel.api.events.v1.EventService/Subscribe")
    through = system.edge.unary_stream(f"{GATEWAY}/Subscribe")
    found: dict[str, list[float]] = {"direct": [], "gateway": [], "sse": []}
    for _ in range(ROUNDS):
        found["direct"].append(await _read_history(direct(b"", metadata=peer.metadata(person.signed_context))))
        found["gateway"].append(await _read_history(through(b"", metadata=person.authorization)))
        found["sse"].append(await _read_sse(system, person))
    median = {name: statistics.median(values) for name, values in found.items()}
    conditions = f"one stream reads {HISTORY} events of its log, {ROUNDS} rounds in turn, {_cores()}"
    return [
        Figure(
            "gateway/stream rate",
            median["gateway"],
            "events/s",
            "ratio > 0.5",
            median["direct"],
            median["gateway"] / median["direct"],
            conditions,
        ),
        Figure(
            "gateway/sse rate",
            median["sse"],
            "events/s",
            "ratio > 0.5",
            median["direct"],
            median["sse"] / median["direct"],
            f"{conditions}, each event as JSON",
        ),
    ]


async def _sse(address: str, person: Person) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.partition(":")
    source, sink = await asyncio.open_connection(host, int(port))
    sink.write(f"GET /v1/events HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {person.token}\r\n\r\n".encode())
    while await source.readline() != b"\r\n":
        pass
    return source, sink


async def _memory(system: System, people: list[Person]) -> list[Figure]:
    """One kind after the other, on the same process; every stream has delivered its first event before the memory is read."""
    process = psutil.Process(dict(system.stack.pids())["gateway"])
    before = process.memory_info().rss
    channels: list[grpc.aio.Channel] = []
    calls: list[Any] = []
    for number in range(STREAMS):
        if number % 100 == 0:
            channels.append(open_channel(system.addresses["gateway"]))
        person = people[number % len(people)]
        calls.append(channels[-1].unary_stream(f"{GATEWAY}/Subscribe")(b"", metadata=person.authorization))
    await asyncio.gather(*(_first(call) for call in calls))
    of_grpc = process.memory_info().rss
    connections = [
        await _sse(system.addresses["gateway_http"], people[number % len(people)]) for number in range(STREAMS)
    ]
    await asyncio.gather(*(source.readuntil(b"data: ") for source, _ in connections))
    of_sse = process.memory_info().rss
    for call in calls:
        call.cancel()
    for _, sink in connections:
        sink.close()
    for channel in channels:
        await channel.close()
    conditions = f"{STREAMS} SSE clients beside {STREAMS} gRPC streams on one process, each has received an event"
    return [
        Figure("gateway/memory idle", before / 2**20, "MiB", conditions="after the load of the figures above"),
        Figure("gateway/memory of a gRPC stream", (of_grpc - before) / STREAMS / 1024, "KiB", conditions=conditions),
        Figure("gateway/memory of an SSE client", (of_sse - of_grpc) / STREAMS / 1024, "KiB", conditions=conditions),
        Figure("gateway/memory of all", of_sse / 2**20, "MiB", conditions=conditions),
    ]


async def _first(call: Any) -> None:
    async for message in call:
        if events.SubscribeResponse.FromString(message).events:
            return


async def measure() -> list[Figure]:
    async with running() as system:
        person = await system.person()
        figures = await _unary(system, person)
        figures += await _streams(system, person)
        people = [await system.person() for _ in range(2 * STREAMS // (2 * STREAMS_EACH))]
        for member in people:
            await (await Run.of(system, member)).append(*thoughts(1))
        return figures + await _memory(system, people)


def _cores() -> str:
    return f"engines, services and load on {os.cpu_count()} cores"
