"""Cancelling with proof: the answer says what has stopped and what has not, and afterwards nothing of the run is accepted."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel_chassis.ids import new_id
from tests.execution.test_runs import CANCELLED, SUCCEEDED, Runs, types
from tests.support.expect import eventually, refused
from tests.support.journals import Journals, effects
from tests.support.system import Person, System


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


@pytest.fixture
def journals(system: System, ada: Person) -> Journals:
    return Journals(system, ada)


def named(parts: object) -> set[tuple[str, str, str]]:
    return {(part.kind, part.name, part.step_id) for part in parts}  # type: ignore[attr-defined]


async def told(runs: Runs, run_id: str, *wanted: str) -> None:
    """The user has been told all this."""

    async def look() -> bool:
        return set(wanted) <= set(types(await runs.events(run_id)))

    await eventually(look)


async def test_the_answer_says_that_the_agent_its_children_and_their_tools_have_stopped(
    runs: Runs, journals: Journals
) -> None:
    run = await runs.start("busy")
    await told(runs, run.run_id, "tool_executing", "agent_thinking")
    answer = await journals.cancel(run.run_id, 10.0)
    assert answer.run.state == CANCELLED and not answer.not_stopped
    assert named(answer.stopped) == {("agent", "busy", ""), ("agent", "sleeper", "1"), ("tool", "sleep", "2")}
    assert all(part.message for part in answer.stopped)
    last = (await runs.story(run.run_id))[-1]
    assert (last.type, last.run_cancelled.reason) == ("run_cancelled", "enough")
    again = await journals.cancel(run.run_id, 1.0)
    assert named(again.stopped) == named(answer.stopped)


async def test_an_agent_that_defies_is_named_and_nothing_it_does_is_accepted(mortal: System) -> None:
    person, key = await mortal.person(), new_id("key")
    runs, journals = Runs(mortal, person), Journals(mortal, person)
    run = await runs.start("defiant", {"key": key, "seconds": 4.0}, thread_id="thread-of-defiance")
    await told(runs, run.run_id, "agent_thinking")
    answer = await journals.cancel(run.run_id, 10.0)
    assert answer.run.state == CANCELLED and not answer.stopped
    assert named(answer.not_stopped) == {("agent", "defiant", "")}
    events = types(await runs.story(run.run_id))
    await asyncio.sleep(2.0)  # it goes on trying all the while: what must not happen has no event to wait for
    assert types(await runs.events(run.run_id)) == events
    assert await journals.steps(run.run_id) == await journals.waits(run.run_id) == []
    assert effects(mortal, f"{key}-late") == 0
    assert (await runs.get(run.run_id)).state == CANCELLED
    after = await runs.start("remembering", {"word": "after"}, thread_id="thread-of-defiance")
    ended = await runs.until(after.run_id, SUCCEEDED)
    assert json.loads(ended.result_json) == ["mine", "after"]  # what it had set before it was told to stop, and no more


async def test_whoever_does_not_wait_is_answered_at_once(runs: Runs, journals: Journals) -> None:
    run = await runs.start("defiant", {"key": new_id("key"), "seconds": 3.0})
    await told(runs, run.run_id, "agent_thinking")
    answer = await journals.cancel(run.run_id, 0.0)
    assert answer.run.state == run_pb2.RUN_STATE_CANCELLING
    assert named(answer.not_stopped) == {("agent", "defiant", "")} and not answer.stopped
    short = await journals.cancel(run.run_id, 0.2)
    assert short.run.state == run_pb2.RUN_STATE_CANCELLING and named(short.not_stopped) == named(answer.not_stopped)
    await runs.story(run.run_id)


async def test_a_run_that_nobody_works_on_stops_as_a_whole(runs: Runs, journals: Journals) -> None:
    busy = [await runs.start("sleeper", {"seconds": 60}) for _ in range(4)]
    for run in busy:
        await runs.until(run.run_id, run_pb2.RUN_STATE_RUNNING)
    queued = await runs.start("sleeper")
    answer = await journals.cancel(queued.run_id, 5.0)
    assert answer.run.state == CANCELLED and named(answer.stopped) == {("run", "sleeper", "")}
    for run in busy:
        assert (await journals.cancel(run.run_id, 10.0)).run.state == CANCELLED


async def test_a_run_that_is_over_is_returned_as_it_is(runs: Runs, journals: Journals) -> None:
    run = await runs.start("counting", {"calls": 1})
    await runs.until(run.run_id, SUCCEEDED)
    answer = await journals.cancel(run.run_id, 5.0)
    assert answer == pb.CancelRunResponse(run=await runs.get(run.run_id))


async def test_nobody_else_cancels_or_learns_what_a_run_does(
    system: System, runs: Runs, journals: Journals, eve: Person
) -> None:
    run = await runs.start("sleeper", {"seconds": 60})
    await runs.until(run.run_id, run_pb2.RUN_STATE_RUNNING)
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        await Journals(system, eve).cancel(run.run_id, 5.0)
    assert (await runs.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await journals.cancel(run.run_id, 31.0)
    assert list(refusal.error.fields) == ["wait"]
    await journals.cancel(run.run_id, 10.0)
