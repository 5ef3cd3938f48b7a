"""What shedding is for: the same crowd at a gateway that takes as many calls as it can answer soon, and at one that takes them all."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time

import grpc

from carrel_chassis.errors import Kind
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.rpc.status import from_rpc_error
from tests.bench.gateway import GATEWAY, running
from tests.bench.report import Figure, percentile
from tests.gateway.processes import gateway_process
from tests.support.system import Person, System

ROUNDS = 3
CALLERS = 400
SECONDS = 3.0
BOUNDS = {"shedding": 32, "queueing": 100_000}


async def _overload(address: str, person: Person) -> list[float]:
    """Callers that call without pause, and wait as they are told when they are refused: the seconds of each answer."""
    taken: list[float] = []
    channel = open_channel(address)
    list_runs = channel.unary_unary(f"{GATEWAY}/ListRuns")
    await list_runs(b"", metadata=person.authorization, timeout=30)
    end = time.perf_counter() + SECONDS

    async def caller() -> None:
        while (begin := time.perf_counter()) < end:
            try:
                await list_runs(b"", metadata=person.authorization, timeout=30)
                taken.append(time.perf_counter() - begin)
            except grpc.aio.AioRpcError as error:
                told = from_rpc_error(error)
                if told.kind is not Kind.UNAVAILABLE:
                    raise
                await asyncio.sleep((told.retry_seconds or 0) * random.uniform(1.0, 1.5))  # as the client spreads it

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    await channel.close()
    return taken


async def _rounds(system: System, person: Person) -> dict[str, list[list[float]]]:
    free = {"user_calls_per_second": "1000000", "tenant_calls_per_second": "1000000"}
    found: dict[str, list[list[float]]] = {name: [] for name in BOUNDS}
    for _ in range(ROUNDS):
        for name, bound in BOUNDS.items():
            async with gateway_process(system, **free, calls_under_way=str(bound)) as gateway:
                found[name].append(await _overload(gateway.address, person))
    return found


async def measure() -> list[Figure]:
    async with running() as system:
        found = await _rounds(system, await system.person())
    p50 = {name: statistics.median(percentile(taken, 0.5) for taken in rounds) * 1e3 for name, rounds in found.items()}
    per_second = {name: statistics.median(len(taken) for taken in rounds) / SECONDS for name, rounds in found.items()}
    conditions = (
        f"ListRuns by {CALLERS} callers without pause, at most {BOUNDS['shedding']} under way against all, "
        f"{ROUNDS} rounds in turn of {SECONDS:g} s, everything on {os.cpu_count()} cores"
    )
    return [
        Figure(
            "shedding/p50 of what is answered",
            p50["shedding"],
            "ms",
            "ratio < 0.5",
            p50["queueing"],
            p50["shedding"] / p50["queueing"],
            conditions,
        ),
        Figure(
            "shedding/answers",
            per_second["shedding"],
            "1/s",
            "ratio > 0.5",
            per_second["queueing"],
            per_second["shedding"] / per_second["queueing"],
            conditions,
        ),
    ]
