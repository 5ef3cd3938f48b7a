"""Agents that keep the event loop from turning: their own run ends, the runs of others go on. A system of its own, for it is killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from carrel.api.runs.v1 import run_pb2
from carrel_chassis.stack import Stack
from tests.execution.test_runs import CANCELLED, DEAD, SUCCEEDED, Runs
from tests.support.expect import eventually
from tests.support.system import System, test_settings


@pytest_asyncio.fixture(scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Its loop may stand for half a second."""
    settings = test_settings(
        tmp_path_factory.mktemp("watched") / "data",
        only=("context", "execution", "tools", "events"),
        service_environment={"CARREL_STUCK_SECONDS": "0.5", "CARREL_LEASE_SECONDS": "3"},
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


@pytest_asyncio.fixture
async def runs(watched: System) -> Runs:
    """Of the user whose agent is at fault."""
    return Runs(watched, await watched.person())


@pytest_asyncio.fixture
async def others(watched: System) -> Runs:
    """Of somebody else."""
    return Runs(watched, await watched.person())


async def at_work(others: Runs) -> run_pb2.Run:
    """A run that takes its time, under way."""
    run = await others.start("counting", {"calls": 30, "seconds": 0.1})
    return await others.until(run.run_id, run_pb2.RUN_STATE_RUNNING)


async def cause_of_death(runs: Runs, run: run_pb2.Run) -> str:
    last = (await runs.story(run.run_id, seconds=30.0))[-1]
    assert last.type == "agent_died", last
    return last.agent_died.cause


async def goes_on(others: Runs, run: run_pb2.Run) -> run_pb2.Run:
    assert (await others.story(run.run_id, seconds=30.0))[-1].type == "agent_completed"
    ended = await others.get(run.run_id)
    assert json.loads(ended.result_json)["numbers"] == list(range(1, 31))
    return ended


def process(system: System) -> int:
    return system.stack.pids()["execution"]


@pytest.mark.parametrize(("agent", "does"), [("spinner", "spin"), ("weaver", "spin_in_a_task")])
async def test_an_agent_that_blocks_the_loop_dies_and_nobody_else_notices(
    watched: System, runs: Runs, others: Runs, agent: str, does: str
) -> None:
    before = process(watched)
    beside = await at_work(others)
    run = await runs.start(agent, {"does": does})
    cause = await cause_of_death(runs, run)
    assert cause.startswith("The agent blocked the event loop for 0.5 s at rogue_agents.py:")
    assert (await runs.get(run.run_id)).state == DEAD
    assert (await goes_on(others, beside)).attempt == 1
    assert process(watched) == before


async def test_an_agent_is_found_though_its_process_is_held_up_again_and_again(watched: System, runs: Runs) -> None:
    """As on a machine with too much to do: what the loop stood before each time counts."""
    service = psutil.Process(process(watched))
    run = await runs.start("stutterer", {"does": "spin"})

    async def hold_up() -> None:
        while True:
            service.suspend()
            await asyncio.sleep(0.2)
            service.resume()
            await asyncio.sleep(0.25)

    holding_up = asyncio.create_task(hold_up())
    try:
        assert "blocked the event loop" in await cause_of_death(runs, run)
    finally:
        holding_up.cancel()
        service.resume()
    assert (await runs.get(run.run_id)).attempt == 1 and process(watched) == service.pid


async def test_from_then_on_that_agent_runs_in_a_process_of_its_own(watched: System, runs: Runs, others: Runs) -> None:
    await cause_of_death(runs, await runs.start("rogue", {"does": "block", "seconds": 0.8}))
    run = await others.start("rogue", {"does": "nothing"})
    await others.story(run.run_id)
    assert json.loads((await others.get(run.run_id)).result_json)["process"] != process(watched)
    kinds = {each.name: each.isolation for each in (await runs.agents()).agents}
    assert kinds["rogue"] == run_pb2.AGENT_ISOLATION_PROCESS


@pytest.mark.parametrize(
    ("agent", "does", "input"),
    [("swallower", "spin_and_swallow", {}), ("blocker", "block", {"seconds": 600})],
)
async def test_where_the_agent_cannot_be_stopped_its_run_ends_and_the_others_go_on_in_a_new_process(
    watched: System, runs: Runs, others: Runs, agent: str, does: str, input: dict[str, Any]
) -> None:
    before = process(watched)
    beside = await at_work(others)
    run = await runs.start(agent, {"does": does, **input})
    assert "blocked the event loop" in await cause_of_death(runs, run)
    await watched.stack.ready(30)
    ended = await runs.get(run.run_id)
    assert (ended.state, ended.attempt) == (DEAD, 1)
    assert (await goes_on(others, beside)).attempt == 2
    assert process(watched) != before


async def test_an_agent_that_keeps_the_interpreter_is_found_again_by_its_code_and_isolated(
    watched: System, runs: Runs, others: Runs
) -> None:
    beside = await at_work(others)
    run = await runs.start("hog", {"does": "keep_the_interpreter"})
    await goes_on(others, beside)

    async def again() -> bool:
        return (await runs.get(run.run_id)).attempt == 2

    await eventually(again, seconds=30.0)
    [zygote] = psutil.Process(process(watched)).children()
    assert zygote.children()
    await runs.cancel(run.run_id, "enough")
    await runs.story(run.run_id, seconds=30.0)
    assert (await runs.get(run.run_id)).state == CANCELLED


async def test_a_process_that_was_paused_is_not_at_fault(watched: System, others: Runs) -> None:
    run = await at_work(others)
    service = psutil.Process(process(watched))
    service.suspend()
    await eventually(_stopped(service))
    service.resume()
    await others.story(run.run_id, seconds=30.0)
    assert (await others.get(run.run_id)).state == SUCCEEDED
    assert process(watched) == service.pid


def _stopped(service: psutil.Process) -> Any:
    """Paused for longer than the loop may stand."""
    looks = iter(range(60))

    async def look() -> bool:
        return service.status() == psutil.STATUS_STOPPED and next(looks) == 59

    return look
