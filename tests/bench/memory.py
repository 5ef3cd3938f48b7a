"""Many runs in a row: whether the processes keep anything of them."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path

import psutil

from carrel_chassis.stack import Stack, StackSettings
from tests.bench.report import Figure
from tests.bench.runner import Runner, runners
from tests.support.system import System

RUNS = 15_000
AT_ONCE = 32
_EVERY = 250
_WARM_RUNS = 9_000
"""They fill pools and caches and are not counted: a process keeps the 8,192 contexts that it has verified last, one for each run."""
_PROCESSES = ("execution", "tools", "events", "context", "gateway")


async def _sampled(system: System, users: list[Runner]) -> list[dict[str, int]]:
    """The resident bytes of each process, after each so many runs."""
    processes = {name: psutil.Process(system.stack.pids()[name]) for name in _PROCESSES}
    samples = []
    left = iter(range(RUNS))

    async def loop(user: Runner) -> None:
        for number in left:
            await user.run()
            if number % _EVERY == 0:
                samples.append({name: process.memory_info().rss for name, process in processes.items()})

    await asyncio.gather(*map(loop, users))
    return samples


async def _measure(system: System) -> list[Figure]:
    async with runners(system, AT_ONCE) as users:
        samples = await _sampled(system, users)
    counted = samples[_WARM_RUNS // _EVERY :]
    runs = [number * _EVERY / 1000 for number in range(len(counted))]
    figures = []
    for name in _PROCESSES:
        kilobytes = [sample[name] / 1024 for sample in counted]
        slope = statistics.linear_regression(runs, kilobytes).slope
        conditions = (
            f"{RUNS} runs, {AT_ONCE} at once, the first {_WARM_RUNS} left out; "
            f"{kilobytes[0] / 1024:.0f} MB, at the end {kilobytes[-1] / 1024:.0f} MB"
        )
        figures.append(Figure(f"memory/slope of {name}", slope, "KB/1,000 runs", conditions=conditions))
    return figures


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data", fast=True)) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                return await _measure(system)
            finally:
                await system.close()
