"""A run of an agent with one tool, from StartRun at the gateway to `agent_completed` at the subscriber: the whole system, durable."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

import psutil

from carrel import Client
from carrel_chassis.stack import Stack, StackSettings
from tests.bench.report import Figure, percentile
from tests.support.system import Person, System

IDLE_RUNS = 300
AT_ONCE = 32
LOAD_SECONDS = 10.0


class Runner:
    """A user who starts runs and hears of their ends on one stream."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ends: dict[str, asyncio.Event] = {}

    async def listen(self) -> None:
        async with aclosing(self._client.subscribe()) as events:
            async for event in events:
                if event.final:
                    self._end_of(event.run_id).set()

    def _end_of(self, run_id: str) -> asyncio.Event:
        return self._ends.setdefault(run_id, asyncio.Event())

    async def run(self) -> float:
        """Seconds from the call to the final event."""
        begin = time.perf_counter()
        run = await self._client.start_run("echo", {"text": "hello"})
        async with asyncio.timeout(60):
            await self._end_of(run.run_id).wait()
        del self._ends[run.run_id]
        return time.perf_counter() - begin


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """CPU of each process so far, its children included (PostgreSQL has one for each connection)."""
    result = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        result[name] = sum(sum(member.cpu_times()[:2]) for member in family)
    return result


async def _loaded(runners: list[Runner]) -> tuple[int, float, list[float]]:
    """Runs in a closed loop, each runner one at a time: how many, in how many seconds, and how long each took."""
    taken: list[float] = []
    end = time.perf_counter() + LOAD_SECONDS

    async def loop(runner: Runner) -> None:
        while time.perf_counter() < end:
            taken.append(await runner.run())

    begin = time.perf_counter()
    await asyncio.gather(*map(loop, runners))
    return len(taken), time.perf_counter() - begin, taken


async def _measure(system: System, pids: dict[str, int]) -> list[Figure]:
    people: list[Person] = [await system.person() for _ in range(AT_ONCE)]
    clients = [Client(system.addresses["gateway"], person.token) for person in people]
    runners = [Runner(client) for client in clients]
    listeners = [asyncio.create_task(runner.listen()) for runner in runners]
    for runner in runners:
        await runner.run()
    idle = [await runners[0].run() for _ in range(IDLE_RUNS)]
    before, own = cpu_seconds(pids), time.process_time()
    runs, seconds, loaded = await _loaded(runners)
    after = cpu_seconds(pids)
    own = time.process_time() - own
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    for client in clients:
        await client.close()
    conditions = (
        f"{AT_ONCE} users, one run at a time each; engines, services and load on {os.cpu_count()} cores, fsync on"
    )
    spent = {name: (after[name] - before[name]) / runs * 1e3 for name in after} | {"load generator": own / runs * 1e3}
    return [
        Figure("run/p50 idle", percentile(idle, 0.5) * 1e3, "ms", "< 25", conditions="one user, one run at a time"),
        Figure("run/p99 idle", percentile(idle, 0.99) * 1e3, "ms", conditions="one user, one run at a time"),
        Figure("run/rate", runs / seconds, "runs/s", conditions=conditions),
        Figure("run/p50 loaded", percentile(loaded, 0.5) * 1e3, "ms", conditions=conditions),
        Figure("run/cpu all", sum(spent.values()), "ms/run", conditions=conditions),
        *(Figure(f"run/cpu {name}", value, "ms/run", conditions="its CPU time") for name, value in spent.items()),
    ]


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data")) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                return await _measure(system, dict(stack.pids()))
            finally:
                await system.close()
