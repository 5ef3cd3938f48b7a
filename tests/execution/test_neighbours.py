"""Neighbours who are at fault or at work a lot: whoever runs beside them, with the settings that nobody has changed, is not disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from carrel.api.events.v1 import event_pb2, event_service_pb2
from carrel.api.events.v1 import event_service_pb2_grpc as event_rpc
from carrel.api.runs.v1 import run_pb2
from carrel_chassis.stack import Stack
from carrel_execution.settings import ExecutionSettings
from tests.chaos.commits import POSTGRES_SETTINGS, Change, Commits
from tests.execution.test_runs import CANCELLED, DEAD, FAILED, SUCCEEDED, Runs
from tests.support.expect import eventually
from tests.support.system import Person, System, test_settings

_PLACES = 4
_CROWD = 200


@asynccontextmanager
async def _system(data_dir: Path, **changes: Any) -> AsyncIterator[System]:
    only = ("context", "execution", "tools", "events")
    async with Stack(test_settings(data_dir, only=only, **changes)) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


@pytest_asyncio.fixture(scope="module")
async def unset(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """With the settings of agent-execution as they come."""
    async with _system(tmp_path_factory.mktemp("unset") / "data") as system:
        yield system


async def _log(system: System, person: Person, run_id: str) -> list[event_pb2.Event]:
    """All events of a run, over as many pages as it takes."""
    stub: event_rpc.EventServiceAsyncStub = event_rpc.EventServiceStub(system.peer("event-stream").channel)
    found: list[event_pb2.Event] = []
    request = event_service_pb2.ListEventsRequest(filter=event_pb2.EventFilter(run_id=run_id), page_size=1000)
    while True:
        page = await stub.ListEvents(request, metadata=person.metadata, timeout=20)
        found += page.events
        if not page.more:
            return found
        request.after.CopyFrom(page.position)


async def test_a_million_events_end_in_one_that_says_so_and_neither_memory_nor_the_neighbour_notices(
    unset: System,
) -> None:
    loud, quiet = await unset.person(), await unset.person()
    talking, others = Runs(unset, loud), Runs(unset, quiet)
    process = psutil.Process(unset.stack.pids()["execution"])
    beside = await others.start("counting", {"calls": 30, "seconds": 0.1})
    await others.until(beside.run_id, run_pb2.RUN_STATE_RUNNING)
    before = process.memory_info().rss
    run = await talking.start("talkative")
    most = before

    async def over() -> run_pb2.Run | None:
        nonlocal most
        most = max(most, process.memory_info().rss)
        found = await talking.get(run.run_id)
        return found if found.state == FAILED else None

    ended = await eventually(over, seconds=60.0)
    assert ended.error.reason == "TOO_MANY_EVENTS" and "10000" in ended.error.message
    log = await _told(unset, loud, run.run_id)
    assert [event.type for event in log if event.final] == ["agent_failed"]
    assert log[-1].final and log[-1].agent_failed.reason == "TOO_MANY_EVENTS"
    assert len(log) <= ExecutionSettings.model_fields["events_per_run"].default + 10
    # A million of them would be hundreds of megabytes.
    assert most - before < 50 * 2**20
    assert (await others.story(beside.run_id, seconds=30.0))[-1].type == "agent_completed"
    assert (await others.get(beside.run_id)).attempt == 1
    assert process.pid == unset.stack.pids()["execution"]


async def _told(system: System, person: Person, run_id: str) -> list[event_pb2.Event]:
    """The log of the run, when its end is in it."""

    async def look() -> list[event_pb2.Event]:
        log = await _log(system, person, run_id)
        return log if log and log[-1].final else []

    return await eventually(look, seconds=30.0)


@pytest.mark.parametrize(
    ("agent", "does"), [("blocker", {"does": "block", "seconds": 1.5}), ("spinner", {"does": "spin"})]
)
async def test_with_the_usual_lease_an_agent_that_blocks_the_loop_dies_alone(
    unset: System, agent: str, does: dict[str, Any]
) -> None:
    process = unset.stack.pids()["execution"]
    crowd = [Runs(unset, await unset.person()) for _ in range(5)]
    beside = [await runs.start("counting", {"calls": 30, "seconds": 0.1}) for runs in crowd]
    for runs, run in zip(crowd, beside, strict=True):
        await runs.until(run.run_id, run_pb2.RUN_STATE_RUNNING)
    faulty = Runs(unset, await unset.person())
    run = await faulty.start(agent, does)
    last = (await faulty.story(run.run_id, seconds=30.0))[-1]
    assert last.agent_died.cause.startswith("The agent blocked the event loop for 1.3 s at rogue_agents.py:")
    assert (await faulty.get(run.run_id)).state == DEAD
    for runs, run in zip(crowd, beside, strict=True):
        await runs.story(run.run_id, seconds=30.0)
        ended = await runs.get(run.run_id)
        assert (ended.state, ended.attempt) == (SUCCEEDED, 1)
    assert unset.stack.pids()["execution"] == process


@pytest_asyncio.fixture(scope="module")
async def full(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[System, Commits]]:
    """One process that has one place more than a user may take; all commits are recorded."""
    data_dir = tmp_path_factory.mktemp("full") / "data"
    environment = {
        **test_settings(data_dir).service_environment,
        "CARREL_WORKER_CAPACITY": str(_PLACES + 1),
        "CARREL_RUNNING_RUNS_PER_USER": str(_PLACES),
    }
    async with _system(data_dir, postgres_settings=POSTGRES_SETTINGS, service_environment=environment) as system:
        commits = Commits(system.stack.admin_url_of("carrel"))
        await commits.begin(("execution.run",))
        yield system, commits


@pytest.mark.parametrize("all_places_taken", [False, True])
async def test_who_queues_much_keeps_no_other_user_waiting_and_never_has_more_than_the_limit(
    full: tuple[System, Commits], all_places_taken: bool
) -> None:
    system, commits = full
    await commits.read()  # what another test has left
    noisy, other = await system.person(), await system.person()
    theirs, ours, thirds = Runs(system, noisy), Runs(system, other), Runs(system, await system.person())
    taking = [await _working(theirs) for _ in range(_PLACES)]
    last_place = await _working(thirds) if all_places_taken else None
    queued = await asyncio.gather(*(theirs.start("echo", {"text": "more"}) for _ in range(_CROWD)))
    mine = await ours.start("echo", {"text": "mine"})
    if all_places_taken:
        await theirs.cancel(taking[0].run_id)
    await ours.until(mine.run_id, SUCCEEDED)
    for run in taking:
        await theirs.cancel(run.run_id)
    await asyncio.gather(*(theirs.until(run.run_id, CANCELLED) for run in taking))
    if last_place is not None:
        await thirds.cancel(last_place.run_id)
    await _all_over(theirs)

    changes = await commits.read()
    started = [change.row["run_id"] for change in changes if change.row["state"] == "RUNNING"]
    before = {run.run_id for run in queued} & set(started[: started.index(mine.run_id)])
    # While there is no place at all users take turns, and it may have been the turn of the one who has stood there for longer.
    assert len(before) <= (1 if all_places_taken else 0)
    assert {run.run_id for run in queued} <= set(started)
    assert _most_at_work(changes, noisy.user_id) == _PLACES


async def _working(runs: Runs) -> run_pb2.Run:
    """A run that takes a place until it is cancelled."""
    run = await runs.start("sleeper", {"seconds": 60})
    return await runs.until(run.run_id, run_pb2.RUN_STATE_RUNNING)


async def _all_over(runs: Runs) -> None:
    async def look() -> bool:
        states = [run_pb2.RUN_STATE_QUEUED, run_pb2.RUN_STATE_RUNNING]
        return not (await runs.list(states=states, page_size=1)).runs

    await eventually(look, seconds=60.0)


def _most_at_work(changes: list[Change], user_id: str) -> int:
    """How many runs of the user were at work after any commit."""
    at_work: set[str | None] = set()
    most = 0
    for row in (change.row for change in changes if change.row["user_id"] == user_id):
        if row["state"] in ("RUNNING", "CANCELLING"):
            at_work.add(row["run_id"])
        else:
            at_work.discard(row["run_id"])
        most = max(most, len(at_work))
    return most
