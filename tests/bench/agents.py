"""What an agent costs before it does anything: an instance in the loop, a process of its own, a call from there, memory at work."""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import psutil

from carrel.agent import JSON
from carrel_chassis.stack import Stack
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.agents.isolation.host import ProcessHost
from carrel_execution.agents.isolation.proxy import ProcessAgent
from carrel_execution.agents.registry import load_registry
from tests.bench.load import durations, rate
from tests.bench.report import Figure, percentile
from tests.bench.runner import Runner, runners
from tests.support.agents import Corpora, LocalRun
from tests.support.expect import eventually
from tests.support.system import System, test_settings

MODULE = "tests.bench.agents_that_idle"
INSTANCES = 20_000
CALLS = 500
WARM, COUNTED = 200, 800
"""Runs at work at the same time: the first fill pools and caches, the growth by the others is what a run takes."""


async def _instances() -> list[Figure]:
    factory = InstanceFactory(load_registry([MODULE]))
    context = LocalRun("bench-idle", Corpora({}))

    async def one() -> None:
        async with factory.instance("bench-idle") as agent:
            await agent.run(context, {})

    times = []
    for _ in range(INSTANCES):
        begin = time.perf_counter()
        await one()
        times.append((time.perf_counter() - begin) * 1e6)
    gc.collect()
    tracemalloc.start()
    scopes = [factory.instance("bench-idle") for _ in range(1000)]
    for scope in scopes:
        await scope.__aenter__()
    bytes_each = tracemalloc.get_traced_memory()[0] / len(scopes)
    tracemalloc.stop()
    for scope in scopes:
        await scope.__aexit__(None, None, None)
    return [
        Figure("agents/instance p50", percentile(times, 0.5), "us", "< 50", conditions="made, run empty, cleaned"),
        Figure("agents/instance p99", percentile(times, 0.99), "us", conditions="made, run empty, cleaned"),
        Figure("agents/memory of an instance", bytes_each, "bytes", conditions="with its scope, without its context"),
    ]


async def _processes() -> list[Figure]:
    host, corpora = ProcessHost([MODULE]), Corpora({})
    await host.start()

    async def run(name: str, **input: JSON) -> JSON:
        return await ProcessAgent(host, name, 256, 0.2).run(LocalRun(name, corpora), input)

    try:
        await durations(lambda: run("bench-idle"), count=20)
        alone = await durations(lambda: run("bench-idle"), count=200)
        many = await rate(lambda: run("bench-idle"), at_once=8, seconds=3.0)
        call_us = await run("bench-talking", times=CALLS)
        memory = await _memory(run)
    finally:
        await host.close()
    conditions = "from the request to its result, with nothing of it left"
    return [
        Figure("agents/process p50", percentile(alone, 0.5) * 1e3, "ms", "< 10", conditions=conditions),
        Figure("agents/process p99", percentile(alone, 0.99) * 1e3, "ms", conditions=conditions),
        Figure("agents/processes", many, "runs/s", conditions="8 at once"),
        Figure("agents/call from a process", call_us, "us", conditions="thinking(), to the service's loop and back"),
        *memory,
    ]


async def _memory(run: Any) -> list[Figure]:
    """What only one of them holds (USS) when 20 are at work; the rest they share with what they are forked from."""
    at_work = [asyncio.create_task(run("bench-sleeping")) for _ in range(20)]
    [zygote] = psutil.Process().children()

    async def all_there() -> bool:
        return len(zygote.children(recursive=True)) == 2 * len(at_work)

    await eventually(all_there)
    await asyncio.sleep(0.5)  # they settle: the figure is of agents that wait
    keepers = zygote.children()
    agents = [agent for keeper in keepers for agent in keeper.children()]
    figures = [
        Figure(f"agents/memory of {name}", sum(_mb(each) for each in family) / len(family), "MB", conditions="USS")
        for name, family in (("a process", agents), ("its keeper", keepers), ("what they are forked from", [zygote]))
    ]
    for task in at_work:
        task.cancel()
    await asyncio.gather(*at_work, return_exceptions=True)
    return figures


def _mb(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss) / 2**20


async def measure() -> list[Figure]:
    return [*await _instances(), *await _processes(), await _run_at_work()]


async def _run_at_work() -> Figure:
    """What agent-execution grows by for a run that is under way, with its attempt, context and instance."""
    most = str(WARM + COUNTED)
    with tempfile.TemporaryDirectory() as folder:
        settings = test_settings(Path(folder) / "data")
        environment = {
            **settings.service_environment,
            "CARREL_WORKER_CAPACITY": most,
            "CARREL_RUNNING_RUNS_PER_USER": most,
        }
        async with Stack(test_settings(settings.data_dir, service_environment=environment)) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                async with runners(system, 1) as (user,):
                    service = psutil.Process(stack.pids()["execution"])
                    await _sleeping(user, WARM)
                    before = service.memory_info().rss
                    await _sleeping(user, COUNTED)
                    kilobytes = (service.memory_info().rss - before) / COUNTED / 1024
            finally:
                await system.close()
    conditions = f"growth of the resident memory by {COUNTED} runs that sleep, beside {WARM}"
    return Figure("agents/memory of a run at work", kilobytes, "KB", conditions=conditions)


async def _sleeping(user: Runner, count: int) -> None:
    for _ in range(count):
        await user.began(await user.start("sleeper", {"seconds": 600}))
