"""How soon a run goes on whose worker is killed: from the kill to what its next attempt tells its user, with two processes that work."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

from carrel import Client
from carrel_chassis.ids import new_id
from carrel_execution.settings import ExecutionSettings
from tests.bench.report import Figure, percentile
from tests.chaos.run_record import answered
from tests.chaos.run_stack import WORKERS, RunStack, run_stack
from tests.support.expect import eventually

KILLS = 8
_LEASE_SECONDS: float = ExecutionSettings.model_fields["lease_seconds"].default
_POLL_SECONDS: float = ExecutionSettings.model_fields["poll_seconds"].default


async def _holder(running: RunStack, run_id: str) -> str:
    """The process that has begun the run: the one in whose log that stands, a moment later."""

    async def look() -> str:
        logs = {name: running.system.data_dir / "logs" / f"{name}.log" for name in WORKERS}
        return next((name for name, log in logs.items() if _tells_of_start(log, run_id)), "")

    return await eventually(look)


def _tells_of_start(log: Path, run_id: str) -> bool:
    return any(run_id in line and "run.started" in line for line in log.read_text().splitlines())


async def _recovered(running: RunStack, client: Client) -> float:
    """Seconds from the kill of a run's worker to the first event of its second attempt."""
    request_id = new_id("request")
    run = await answered(lambda: client.start_run("chaos_lasting", {"seconds": 60.0}, request_id=request_id))
    killed = 0.0
    async with asyncio.timeout(90), aclosing(client.watch_run(run.run_id)) as events:
        async for event in events:
            if event.type == "progress_update" and not killed:
                victim = await _holder(running, run.run_id)
                killed = time.perf_counter()
                running.signal(victim, signal.SIGKILL)
            elif event.attempt > 1 and event.type == "progress_update":
                break
    taken = time.perf_counter() - killed
    await answered(lambda: client.cancel_run(run.run_id))
    return taken


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"CARREL_LEASE_SECONDS": str(_LEASE_SECONDS), "CARREL_POLL_SECONDS": str(_POLL_SECONDS)}
        async with run_stack(Path(folder) / "data", **settings, CARREL_LOG_LEVEL="INFO") as running:
            person = await running.system.person()
            async with Client(running.system.addresses["gateway"], person.token) as client:
                taken = [await _recovered(running, client) for _ in range(KILLS)]
    conditions = f"{KILLS} kills, lease {_LEASE_SECONDS:g} s, poll {_POLL_SECONDS:g} s (the defaults)"
    return [
        Figure("recovery/longest", max(taken), "s", "< 5", conditions=conditions),
        Figure("recovery/p50", percentile(taken, 0.5), "s", conditions=conditions),
    ]
