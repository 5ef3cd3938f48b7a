"""Kill -9 of any process while runs are under way: every accepted run ends with exactly one final event."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import pytest_asyncio

from carrel import Client
from carrel.api.runs.v1.run_pb2 import RunState
from carrel_chassis.stack import Stack
from tests.support.follow import Follower, following
from tests.support.system import System, test_settings


@pytest_asyncio.fixture(scope="module")
async def fragile(tmp_path_factory: pytest.TempPathFactory):
    """A system of its own, with durable engines and short leases, whose processes are killed."""
    settings = test_settings(
        tmp_path_factory.mktemp("fragile") / "data",
        fast=False,
        service_environment={"CARREL_LEASE_SECONDS": "2"},
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


async def work(follower: Follower, count: int) -> list[str]:
    """Starts runs, trying again while the gateway is away: the request_id makes that safe."""
    ids = []
    for number in range(count):
        request_id = f"start-{follower.person.user_id}-{number}"
        for _ in range(200):
            try:
                run = await follower.client.start_run("counting", {"calls": 5, "seconds": 0.05}, request_id=request_id)
                break
            except Exception as error:
                last = error
                await asyncio.sleep(0.1)
        else:
            raise last
        ids.append(run.run_id)
    return ids


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", ["execution", "tools", "events", "context", "gateway", "postgres", "nats"])
async def test_after_the_death_of_a_process_every_run_ends_once(fragile: System, victim: str) -> None:
    people = [await fragile.person() for _ in range(3)]
    async with following(fragile, *people) as followers:
        started = asyncio.gather(*(work(follower, 6) for follower in followers))
        await followers[0].until(lambda: "tool_executing" in followers[0].types())
        before = fragile.stack.pids()[victim]
        fragile.stack.kill(victim, signal.SIGKILL)
        runs = await started
        for follower, ids in zip(followers, runs, strict=True):
            await follower.until_final(*ids, seconds=60)
        await fragile.stack.ready(30)
        assert fragile.stack.pids()[victim] != before, "it was restarted"
        for follower, ids in zip(followers, runs, strict=True):
            follower.check()
            for run_id in ids:
                run = await follower.client.get_run(run_id)
                assert run.state == RunState.RUN_STATE_SUCCEEDED, f"{run.error.reason}: {run.error.message}"
                assert [event.type for event in follower.of(run_id) if event.final] == ["agent_completed"]
        # What a client sees that comes only now is the same.
        async with Client(fragile.addresses["gateway"], people[0].token) as late:
            page = await late.list_events(page_size=1000)
            assert [event.event_id for event in page.events] == [event.event_id for event in followers[0].events]


def test_the_data_folder_is_private(fragile: System) -> None:
    folder: Path = fragile.data_dir
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "secrets.json").stat().st_mode & 0o077 == 0
