"""What can be asked for with a run, through the services: busy threads, priorities, delays, deadlines, timeouts, declared input."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.runs.v1 import run_pb2
from carrel_chassis.ids import new_id
from tests.execution.test_runs import Runs
from tests.support.expect import refused
from tests.support.system import Person, System

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


@pytest.fixture
def eves(system: System, eve: Person) -> Runs:
    return Runs(system, eve)


def at(seconds: float) -> Timestamp:
    """So many seconds from now."""
    stamp = Timestamp()
    stamp.FromMicroseconds(int((time.time() + seconds) * 1e6))
    return stamp


async def test_a_run_shows_what_was_asked_for_and_the_version_that_it_began_with(runs: Runs) -> None:
    asked: dict[str, Any] = {
        "thread_id": new_id("thread"),
        "busy_thread": run_pb2.BUSY_THREAD_INTERRUPT,
        "priority": -7,
        "earliest_start_time": at(-5),
        "deadline": at(600),
        "timeout": Duration(seconds=30),
        "on_disconnect": run_pb2.ON_DISCONNECT_CANCEL,
    }
    request_id = new_id("request")
    run = await runs.start("orderly", {"amount": 1}, request_id=request_id, **asked)
    assert (await runs.start("orderly", {"amount": 1}, request_id=request_id, **asked)).run_id == run.run_id
    with refused(grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED"):
        await runs.start("orderly", {"amount": 1}, request_id=request_id, **asked | {"priority": 7})
    await runs.story(run.run_id)
    ended = await runs.get(run.run_id)
    assert {name: getattr(ended, name) for name in asked} == asked
    assert ended.agent_version == "3.1" and ended.state == run_pb2.RUN_STATE_SUCCEEDED


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"timeout": Duration()}, "timeout"),
        ({"timeout": Duration(seconds=-1)}, "timeout"),
        ({"earliest_start_time": at(367 * 86400)}, "earliest_start_time"),
        ({"earliest_start_time": Timestamp(seconds=2**60)}, "earliest_start_time"),
        ({"deadline": at(-1)}, "deadline"),
        ({"deadline": at(60), "earliest_start_time": at(120)}, "deadline"),
        ({"busy_thread": 99}, "busy_thread"),
        ({"on_disconnect": 99}, "on_disconnect"),
    ],
)
async def test_a_wish_that_cannot_be_met_is_refused_with_its_field(
    runs: Runs, wishes: dict[str, Any], field: str
) -> None:
    with refused(INVALID, "INVALID_ARGUMENT") as refusal:
        await runs.start("orderly", {"amount": 1}, **wishes)
    assert refusal.error.fields.keys() == {field}
    assert (await runs.list()).runs == []


async def test_input_that_the_agent_does_not_take_is_refused_with_all_its_faults(runs: Runs) -> None:
    with refused(INVALID, "INVALID_ARGUMENT") as refusal:
        await runs.start("orderly", {"amount": -1, "lines": ["a", 2], "extra": True})
    fields = refusal.error.fields
    assert fields.keys() == {"input_json.amount", "input_json.lines[1]", "input_json"}
    assert "extra" in fields["input_json"]
    with refused(INVALID, "INVALID_ARGUMENT"):
        await runs.start("orderly", {})


async def test_a_thread_goes_on_with_one_run_after_the_other(runs: Runs) -> None:
    first = await runs.start("sleeper", {"seconds": 0.3})
    second = await runs.start("sleeper", {"seconds": 0}, thread_id=first.thread_id)
    third = await runs.start("sleeper", {"seconds": 0}, thread_id=first.thread_id)
    await runs.story(third.run_id)
    ended = [await runs.get(run.run_id) for run in (first, second, third)]
    times = [stamp.ToNanoseconds() for run in ended for stamp in (run.start_time, run.finish_time)]
    assert times == sorted(times)


async def test_a_busy_thread_refuses_or_is_interrupted_and_another_user_is_never_touched(
    runs: Runs, eves: Runs
) -> None:
    thread_id = new_id("thread")
    first = await runs.start("sleeper", {"seconds": 60}, thread_id=thread_id)
    eves_run = await eves.start("sleeper", {"seconds": 60}, thread_id=thread_id)
    queued = await runs.start("sleeper", {"seconds": 60}, thread_id=thread_id)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "THREAD_BUSY") as refusal:
        await runs.start("sleeper", thread_id=thread_id, busy_thread=run_pb2.BUSY_THREAD_REJECT)
    assert refusal.error.metadata == {"thread_id": thread_id, "run_id": first.run_id}
    urgent = await runs.start("sleeper", {"seconds": 0}, thread_id=thread_id, busy_thread=run_pb2.BUSY_THREAD_INTERRUPT)
    assert (await runs.story(urgent.run_id))[-1].type == "agent_completed"
    for run in (first, queued):
        last = (await runs.story(run.run_id))[-1]
        assert (last.type, last.run_cancelled.reason) == ("run_cancelled", f"interrupted by run {urgent.run_id}")
    assert (await eves.get(eves_run.run_id)).state in (run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_QUEUED)
    await eves.cancel(eves_run.run_id)


async def test_a_delayed_run_begins_by_itself_and_one_with_a_deadline_ends_by_itself(runs: Runs) -> None:
    delayed = await runs.start("sleeper", {"seconds": 0}, earliest_start_time=at(1.0))
    late = await runs.start("sleeper", {"seconds": 0}, earliest_start_time=at(600), deadline=at(601))
    assert delayed.state == late.state == run_pb2.RUN_STATE_QUEUED
    await runs.cancel(late.run_id)
    overdue = await runs.start("sleeper", {"seconds": 60}, thread_id=delayed.thread_id, deadline=at(0.5))
    last = (await runs.story(overdue.run_id))[-1]
    assert (last.agent, last.agent_failed.reason) == ("sleeper", "DEADLINE_EXCEEDED")
    await runs.story(delayed.run_id)
    begun = await runs.get(delayed.run_id)
    assert begun.start_time.ToNanoseconds() >= begun.earliest_start_time.ToNanoseconds()
    assert (await runs.get(overdue.run_id)).state == run_pb2.RUN_STATE_TIMED_OUT


@pytest.mark.parametrize("wish", ["timeout", "deadline"])
async def test_a_run_at_work_ends_when_its_time_is_over(runs: Runs, wish: str) -> None:
    wishes = {"timeout": {"timeout": Duration(nanos=500_000_000)}, "deadline": {"deadline": at(1.0)}}[wish]
    run = await runs.start("sleeper", {"seconds": 60}, **wishes)
    last = (await runs.story(run.run_id))[-1]
    assert last.type == "agent_failed"
    assert (await runs.get(run.run_id)).state == run_pb2.RUN_STATE_TIMED_OUT
