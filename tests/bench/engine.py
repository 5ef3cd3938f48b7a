"""The engine alone: runs of three journaled steps that call nothing, beside DBOS with the same shape on the same PostgreSQL.

Ours is started over gRPC at agent-execution and told of on the user's stream, with a signed context for each run, and its journal is
fenced; DBOS runs within the process that asks. DBOS is installed into `build/dbos` (PyPI, once); without an index only ours is measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from carrel.api.events.v1 import event_service_pb2
from carrel.api.events.v1 import event_service_pb2_grpc as event_rpc
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.db.migrate import migrate
from carrel_chassis.ids import new_id
from carrel_chassis.stack import Stack, StackSettings
from carrel_chassis.stack.roles import MIGRATOR
from tests.bench.engine_alone import measure_alone
from tests.bench.report import OUTPUT, Figure, percentile
from tests.bench.run import cpu_seconds
from tests.support.system import Person, System, test_settings

AT_ONCE = 32
SECONDS = 10.0
DBOS_VERSION = "3.4.0"
_PEER = Path(__file__).with_name("dbos_peer.py")
_ENVIRONMENT = OUTPUT.parent / "dbos"


class Starter:
    """A user at the services themselves, without the gateway."""

    def __init__(self, system: System, person: Person) -> None:
        self._runs: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
        self._events: event_rpc.EventServiceAsyncStub = event_rpc.EventServiceStub(system.peer("event-stream").channel)
        self._metadata = person.metadata
        self._ended: dict[str, asyncio.Event] = {}

    async def listen(self) -> None:
        """Until it is cancelled."""
        call = self._events.Subscribe(event_service_pb2.SubscribeRequest(), metadata=self._metadata)
        try:
            async for message in call:
                for event in message.events:
                    if event.final:
                        assert event.type == "agent_completed", event
                        self._of(event.run_id).set()
        finally:
            call.cancel()

    def _of(self, run_id: str) -> asyncio.Event:
        return self._ended.setdefault(run_id, asyncio.Event())

    async def run(self) -> float:
        """Seconds from the call to the final event."""
        begin = time.perf_counter()
        request = pb.StartRunRequest(request_id=new_id("request"), agent="stepping", input_json="{}")
        run = (await self._runs.StartRun(request, metadata=self._metadata, timeout=30.0)).run
        async with asyncio.timeout(60):
            await self._of(run.run_id).wait()
        del self._ended[run.run_id]
        return time.perf_counter() - begin


@asynccontextmanager
async def _starters(system: System) -> AsyncIterator[list[Starter]]:
    starters = [Starter(system, await system.person()) for _ in range(AT_ONCE)]
    listeners = [asyncio.create_task(starter.listen()) for starter in starters]
    try:
        for starter in starters:
            await starter.run()
        yield starters
    finally:
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)


async def _ours(system: System) -> tuple[float, float, float]:
    """Runs a second, their p50 in ms, and the CPU of each in ms, all processes and PostgreSQL together."""
    taken: list[float] = []
    async with _starters(system) as starters:
        pids = dict(system.stack.pids())
        before, own = sum(cpu_seconds(pids).values()), time.process_time()
        begin = time.perf_counter()

        async def loop(starter: Starter) -> None:
            while time.perf_counter() < begin + SECONDS:
                taken.append(await starter.run())

        await asyncio.gather(*map(loop, starters))
        seconds = time.perf_counter() - begin
        cpu = sum(cpu_seconds(pids).values()) - before + time.process_time() - own
    return len(taken) / seconds, percentile(taken, 0.5) * 1e3, cpu / len(taken) * 1e3


def _python_with_dbos() -> Path | None:
    """The interpreter of an environment of its own that has DBOS, made when it is not there; None without a package index."""
    python = _ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(_ENVIRONMENT, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", f"dbos=={DBOS_VERSION}"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"DBOS is left out: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return python


async def _theirs(stack: Stack, python: Path) -> dict[str, Any]:
    url = stack.admin_url_of("dbos")
    pids = {"postgres": stack.pids()["postgres"]}
    before = cpu_seconds(pids)["postgres"]
    arguments = [str(python), str(_PEER), url, str(AT_ONCE), str(SECONDS)]
    peer = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE)
    output, _ = await peer.communicate()
    assert peer.returncode == 0, "DBOS did not run; what it says is above"
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    # What is still open when the peer has ended is not counted: its connections take their CPU time with them.
    measured["postgres_cpu_seconds"] = max(0.0, cpu_seconds(pids)["postgres"] - before)
    return measured


async def _alone() -> tuple[float, float]:
    """Runs a second of the engine in this process and their p50, on a PostgreSQL of the same kind with nothing else on it."""
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data", only=())) as stack:
            await migrate(stack.database_url(MIGRATOR), "carrel_execution")
            return await measure_alone(stack, AT_ONCE, SECONDS)


async def _measure(system: System) -> list[Figure]:
    python = await asyncio.to_thread(_python_with_dbos)
    rate, p50, cpu = await _ours(system)
    conditions = f"{AT_ONCE} at once, one for each user, {os.cpu_count()} cores, fsync on"
    baseline = ratio = None
    figures = []
    if python is not None:
        theirs = await _theirs(system.stack, python)
        baseline = theirs["workflows"] / theirs["seconds"]
        ratio = rate / baseline
        own_cpu = theirs["cpu_seconds"] / theirs["workflows"] * 1e3
        figures = [
            Figure("engine/dbos p50", theirs["p50_ms"], "ms", conditions=f"dbos {DBOS_VERSION}, {AT_ONCE} at once"),
            Figure("engine/dbos cpu", own_cpu, "ms/run", conditions="of its process, without PostgreSQL"),
        ]
    return [
        Figure("engine/rate", rate, "runs/s", "", baseline, ratio, conditions),
        Figure("engine/p50", p50, "ms", conditions=conditions),
        Figure(
            "engine/cpu",
            cpu,
            "ms/run",
            conditions="context, execution, events, PostgreSQL, NATS and the load generator",
        ),
        *figures,
    ]


async def measure() -> list[Figure]:
    figures = await _measure_services()
    rate, p50 = await _alone()
    theirs = figures[0].baseline
    ratio = rate / theirs if theirs else None
    conditions = f"{AT_ONCE} at once, in one process, as DBOS; no call to another service, no event log"
    return [
        Figure("engine/rate alone", rate, "runs/s", "ratio > 3" if ratio else "", theirs, ratio, conditions),
        Figure("engine/p50 alone", p50, "ms", conditions=conditions),
        *figures,
    ]


async def _measure_services() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        base = test_settings(Path(folder) / "data").service_environment
        settings = test_settings(
            Path(folder) / "data",
            fast=False,
            only=("context", "events", "execution"),
            service_environment={**base, "CARREL_AGENT_MODULES": "tests.bench.stepping"},
        )
        async with Stack(settings) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                return await _measure(system)
            finally:
                await system.close()
