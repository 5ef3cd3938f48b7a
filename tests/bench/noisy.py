"""A noisy neighbour: user A keeps a thousand runs queued, and user B's single run begins nearly as soon as if B were alone."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from carrel_chassis.stack import Stack
from tests.bench.report import Figure, percentile
from tests.bench.runner import Runner, runners
from tests.support.system import System, test_settings

QUEUED = 1000
RUNS = 200
_STARTS_AT_ONCE = 8
_SLEEP = {"seconds": 0.5}
_SETTLE_SECONDS = 4.0
"""After a thousand runs have been accepted their users are told so: that is the crowd's coming, and not what is measured."""


async def _start_seconds(user: Runner) -> float:
    """From the call to the moment in which the user is told that the run has begun."""
    begin = time.perf_counter()
    run_id = await user.start("echo", {"text": "hello"})
    async with asyncio.timeout(60):
        await user.began(run_id)
        taken = time.perf_counter() - begin
        await user.ended(run_id)
    return taken


@asynccontextmanager
async def _crowd(user: Runner, agent: str, input: dict[str, object]) -> AsyncIterator[None]:
    """Within it the user has so many runs queued: for each that ends another is started."""
    starting = asyncio.Semaphore(_STARTS_AT_ONCE)
    queued = asyncio.Semaphore(0)

    async def keep() -> None:
        while True:
            async with starting:
                run_id = await user.start(agent, input)
            queued.release()
            await user.ended(run_id)

    keepers = [asyncio.create_task(keep()) for _ in range(QUEUED)]
    try:
        for _ in keepers:
            await queued.acquire()
        await asyncio.sleep(_SETTLE_SECONDS)
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _measure(system: System) -> list[Figure]:
    async with runners(system, 3) as (quiet, sleeping, busy):
        alone = [await _start_seconds(quiet) for _ in range(RUNS)]
        figures = [Figure("noisy/start p99 alone", percentile(alone, 0.99) * 1e3, "ms", conditions=f"{RUNS} runs")]
        for neighbour, agent, input, what in (
            (sleeping, "sleeper", _SLEEP, "whose runs sleep"),
            (busy, "echo", {"text": "x"}, "whose runs work as fast as they can"),
        ):
            async with _crowd(neighbour, agent, dict(input)):
                beside = [await _start_seconds(quiet) for _ in range(RUNS)]
            p99 = percentile(alone, 0.99)
            figures.append(
                Figure(
                    f"noisy/start p99 beside a user {what}",
                    percentile(beside, 0.99) * 1e3,
                    "ms",
                    "ratio < 2",
                    baseline=p99 * 1e3,
                    ratio=percentile(beside, 0.99) / p99,
                    conditions=f"the other has {QUEUED} runs queued; from the call to agent_started; {RUNS} runs",
                )
            )
            figures.append(Figure(f"noisy/start p50 beside a user {what}", percentile(beside, 0.5) * 1e3, "ms"))
    return figures


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(test_settings(Path(folder) / "data", fast=False)) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                return await _measure(system)
            finally:
                await system.close()
