"""Runs when processes stop, die, or are several: a system of its own for each kind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator

import asyncpg
import grpc
import pytest
import pytest_asyncio

from carrel.api.runs.v1 import run_pb2
from carrel_chassis.stack import Stack
from tests.execution.test_runs import FAILED, SUCCEEDED, Runs, types
from tests.execution.test_statistics import ends
from tests.support.expect import eventually
from tests.support.system import System, test_settings

SERVICES = ("context", "execution", "tools", "events")
STEP = ["progress_update", "tool_executing", "tool_completed"]


@pytest_asyncio.fixture(scope="module")
async def fragile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Its execution process is killed."""
    environment = {"CARREL_LEASE_SECONDS": "1.5", "CARREL_CANCEL_SECONDS": "0.5"}
    settings = test_settings(
        tmp_path_factory.mktemp("fragile") / "data",
        only=SERVICES,
        service_environment={**environment, "CARREL_DRAIN_SECONDS": "0.2"},
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_run_goes_on_when_its_process_ends_and_says_nothing_twice(
    fragile: System, number: signal.Signals
) -> None:
    runs = Runs(fragile, await fragile.person())
    run = await runs.start("counting", {"calls": 8, "seconds": 0.1})

    async def third_call() -> bool:
        return types(await runs.events(run.run_id)).count("tool_completed") >= 3

    await eventually(third_call)
    fragile.stack.kill("execution", number)
    events = await runs.story(run.run_id)
    assert types(events) == ["run_queued", "agent_started", "agent_thinking", *STEP * 8, "agent_completed"]
    await fragile.stack.ready(30)
    ended = await runs.until(run.run_id, SUCCEEDED)
    assert ended.attempt == 2 and json.loads(ended.result_json)["numbers"] == list(range(1, 9))


async def test_a_run_whose_user_is_gone_when_its_turn_comes_does_nothing(fragile: System) -> None:
    person = await fragile.person()
    runs = Runs(fragile, person)
    busy = [await runs.start("sleeper", {"seconds": 2.0}) for _ in range(4)]
    waiting = await runs.start("counting")

    async def begun() -> bool:
        # A run that is accepted may not have its context yet; without one it is refused as well.
        return all(["agent_started" in types(await runs.events(run.run_id)) for run in busy])

    await eventually(begun)
    connection = await asyncpg.connect(fragile.database_url("postgres", driver="postgresql"))
    try:
        await connection.execute("UPDATE context.app_user SET disabled = true WHERE user_id = $1", person.user_id)
        refused = await runs.until(waiting.run_id, FAILED)
        assert (refused.error.reason, refused.result_json) == ("CONTEXT_REFUSED", "")
        for run in busy:  # what has begun may end: its context is good for some minutes
            await runs.until(run.run_id, SUCCEEDED)
        assert "agent_started" not in types(await runs.events(waiting.run_id))

        async def nothing_left() -> bool:
            count = "SELECT count(*) FROM execution.outbox WHERE user_id = $1"
            return await connection.fetchval(count, person.user_id) == 0

        await eventually(nothing_left)
    finally:
        await connection.close()


async def test_a_process_that_stops_writes_what_it_has_counted(fragile: System) -> None:
    person = await fragile.person()
    runs = Runs(fragile, person)
    for _ in range(3):
        await runs.story((await runs.start("counting", {"calls": 1})).run_id)
    fragile.stack.kill("execution", signal.SIGTERM)

    async def all_counted() -> bool:
        try:
            return await ends(fragile, person) == 3
        except grpc.aio.AioRpcError:  # between the two processes
            return False

    await eventually(all_counted, seconds=30)


@pytest_asyncio.fixture(scope="module")
async def divided(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """One process takes the calls and works on nothing, another works, for 8 s at a run; polls and leases are too long to help."""
    common = {"CARREL_POLL_SECONDS": "30", "CARREL_LEASE_SECONDS": "60"}
    settings = test_settings(
        tmp_path_factory.mktemp("divided") / "data",
        only=SERVICES,
        service_environment={**common, "CARREL_WORKER_CAPACITY": "0"},
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        environment = stack.service_environment("execution")
        environment |= {
            "CARREL_WORKER_CAPACITY": "8",
            "CARREL_RUN_SECONDS": "8",
            "CARREL_LISTEN": "127.0.0.1:0",
            "CARREL_METRICS_LISTEN": "",
        }
        environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], *sys.path])
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "carrel_execution", env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        system = System(stack)
        yield system
        other.terminate()
        await other.wait()
        await system.close()


async def test_a_run_that_is_accepted_here_is_worked_on_and_cancelled_there(divided: System) -> None:
    runs = Runs(divided, await divided.person())
    first = await runs.start("sleeper", {"seconds": 60})
    await runs.until(first.run_id, run_pb2.RUN_STATE_RUNNING)  # once the other process is there
    second = await runs.start("counting", {"calls": 1})
    assert (await runs.story(second.run_id, seconds=5.0))[-1].type == "agent_completed"
    await runs.cancel(first.run_id, "enough")
    assert (await runs.story(first.run_id, seconds=5.0))[-1].run_cancelled.reason == "enough"


async def test_a_run_that_takes_too_long_is_timed_out(divided: System) -> None:
    runs = Runs(divided, await divided.person())
    run = await runs.start("sleeper", {"seconds": 60})
    last = (await runs.story(run.run_id))[-1]
    assert (last.type, last.agent_failed.reason) == ("agent_failed", "RUN_TIMED_OUT")
    assert (await runs.get(run.run_id)).state == run_pb2.RUN_STATE_TIMED_OUT
