"""How long a revocation takes until each service knows, an open stream has ended, a queued run is dropped, a tool is stopped."""

from __future__ import annotations

import asyncio
import secrets
import signal
import tempfile
import time
from pathlib import Path

import asyncpg
import grpc

from carrel import Client
from carrel.api.runs.v1.run_pb2 import RunState
from carrel.api.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from carrel_chassis.stack import Stack
from tests.bench.report import Figure
from tests.support.expect import eventually
from tests.support.revoking import end_of_stream, probes, refusal_of, revoke, started
from tests.support.system import Person, System, test_settings

PEOPLE = 20
GOAL = "< 2000"


async def _contexts(system: System) -> dict[str, float]:
    """Until each service refuses a context that it had accepted, in milliseconds."""
    person = await system.person()
    calls = probes(system, person)
    for probe in calls.values():
        await probe()
    begin = time.monotonic()
    answers, _ = await asyncio.gather(
        asyncio.gather(*(refusal_of(probe) for probe in calls.values())), revoke(system, person)
    )
    return {service: (moment - begin) * 1e3 for service, (moment, _) in zip(calls, answers, strict=True)}


async def _stream(system: System) -> float:
    person, opened = await system.person(), asyncio.Event()
    reading = asyncio.create_task(end_of_stream(system, person, opened))
    await opened.wait()
    begin = time.monotonic()
    await revoke(system, person)
    return ((await reading)[0] - begin) * 1e3


async def _runs(system: System, waiting: int = 4) -> float:
    """Four runs under way and so many waiting, until all are CANCELLED."""
    person = await system.person()
    async with Client(system.addresses["gateway"], person.token) as client:
        for _ in range(4):
            await started(client, "sleeper", {"seconds": 60}, RunState.RUN_STATE_RUNNING)
        for _ in range(waiting):
            await client.start_run("sleeper", {"seconds": 60})
    connection = await asyncpg.connect(system.database_url("carrel_execution_runner", driver="postgresql"))
    try:
        begin = time.monotonic()
        await revoke(system, person)

        async def all_cancelled() -> bool:
            query = "SELECT bool_and(state = 'CANCELLED') FROM run WHERE user_id = $1"
            return bool(await connection.fetchval(query, person.user_id))

        await eventually(all_cancelled)
        return (time.monotonic() - begin) * 1e3
    finally:
        await connection.close()


async def _tool(system: System) -> float:
    person: Person = await system.person()
    peer = system.peer("tool-dispatch", "agent-execution")
    stub = tool_service_pb2_grpc.ToolServiceStub(peer.channel)
    request = tool_service_pb2.ExecuteToolRequest(step_id="step-1", tool="sleep", arguments_json='{"seconds": 60}')
    context = await system.run_context(person, f"run-{secrets.token_hex(8)}")
    execution = asyncio.ensure_future(stub.ExecuteTool(request, metadata=peer.metadata(context), timeout=50))
    await asyncio.sleep(0.1)
    begin = time.monotonic()
    await revoke(system, person)
    try:
        await execution
    except grpc.aio.AioRpcError:
        return (time.monotonic() - begin) * 1e3
    raise AssertionError("the tool was not stopped")


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(test_settings(Path(folder) / "data", fast=False)) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                return await _measure(system)
            finally:
                await system.close()


async def _measure(system: System) -> list[Figure]:
    known = [await _contexts(system) for _ in range(PEOPLE)]
    figures = [
        Figure(
            f"revocation/known to {service}",
            max(times[service] for times in known),
            "ms",
            GOAL,
            conditions=f"slowest of {PEOPLE}, from the call of Revoke to the first refusal",
        )
        for service in known[0]
    ]
    for name, one, times in (
        ("stream ended", _stream, 10),
        ("8 runs cancelled", _runs, 5),
        ("tool stopped", _tool, 10),
    ):
        slowest = max([await one(system) for _ in range(times)])
        figures.append(Figure(f"revocation/{name}", slowest, "ms", GOAL, conditions=f"slowest of {times}"))
    many = await _runs(system, waiting=200)
    figures.append(Figure("revocation/204 runs cancelled", many, "ms", GOAL, conditions="4 under way, 200 waiting"))
    system.stack.kill("nats", signal.SIGSTOP)
    try:
        silent = [max((await _contexts(system)).values()) for _ in range(5)]
        figures.append(
            Figure("revocation/known to all, NATS silent", max(silent), "ms", GOAL, conditions="slowest of 5, by polls")
        )
    finally:
        system.stack.kill("nats", signal.SIGCONT)
    return figures
