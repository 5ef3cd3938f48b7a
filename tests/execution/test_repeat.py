"""Starting a run that has ended once more: what the new one has of the old, and who may."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.ids import new_id
from tests.execution.test_runs import CANCELLED, DEAD, SUCCEEDED, Runs
from tests.support.expect import refused
from tests.support.system import Person, System


async def repeat(system: System, person: Person, run_id: str, request_id: str = "") -> run_pb2.Run:
    stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
    request = pb.RepeatRunRequest(request_id=request_id or new_id("request"), run_id=run_id)
    return (await stub.RepeatRun(request, metadata=person.metadata, timeout=20)).run


async def start(system: System, person: Person, **wanted: Any) -> run_pb2.Run:
    stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
    fields = {"agent": "counting", "input_json": '{"calls":1}', "request_id": new_id("request"), **wanted}
    return (await stub.StartRun(pb.StartRunRequest(**fields), metadata=person.metadata, timeout=20)).run


async def test_a_repeated_run_is_a_new_one_of_the_same_work(system: System, ada: Person) -> None:
    runs = Runs(system, ada)
    old = await start(system, ada, thread_id="thread-1", priority=5, timeout={"seconds": 30})
    await runs.story(old.run_id)
    new = await repeat(system, ada, old.run_id)
    assert new.run_id != old.run_id and new.repeats_run_id == old.run_id
    for field in ("agent", "thread_id", "input_json", "priority", "timeout"):
        assert getattr(new, field) == getattr(old, field)
    events = await runs.story(new.run_id)
    assert events[-1].type == "agent_completed"
    assert json.loads((await runs.get(new.run_id)).result_json) == {"numbers": [1]}


async def test_of_a_run_with_a_thread_of_its_own_the_new_one_shares_that(system: System, ada: Person) -> None:
    runs = Runs(system, ada)
    old = await start(system, ada)
    await runs.story(old.run_id)
    first, second = await repeat(system, ada, old.run_id), await repeat(system, ada, old.run_id)
    assert {first.thread_id, second.thread_id} == {old.thread_id}
    await runs.story(second.run_id)
    assert (await runs.get(first.run_id)).state == SUCCEEDED, "they follow each other in the thread"


@pytest.mark.parametrize(("agent", "state"), [("dying", DEAD), ("sleeper", CANCELLED)])
async def test_what_is_dead_or_cancelled_is_found_and_repeated(
    system: System, ada: Person, agent: str, state: run_pb2.RunState.ValueType
) -> None:
    runs = Runs(system, ada)
    old = await start(system, ada, agent=agent, input_json='{"seconds":60}')
    if state == CANCELLED:
        await runs.cancel(old.run_id)
    await runs.until(old.run_id, state)
    other = await start(system, ada)
    await runs.story(other.run_id)
    found = (await runs.list(states=[state])).runs
    assert [run.run_id for run in found] == [old.run_id]
    new = await repeat(system, ada, old.run_id)
    assert new.agent == agent
    await runs.cancel(new.run_id)


async def test_the_same_request_repeats_once(system: System, ada: Person) -> None:
    runs = Runs(system, ada)
    old, other = await start(system, ada), await start(system, ada)
    for run in (old, other):
        await runs.story(run.run_id)
    first = await repeat(system, ada, old.run_id, "request-1")
    assert (await repeat(system, ada, old.run_id, "request-1")).run_id == first.run_id
    with refused(grpc.StatusCode.ABORTED, "REQUEST_ID_REUSED"):
        await repeat(system, ada, other.run_id, "request-1")


async def test_a_run_that_is_not_over_is_not_repeated(system: System, ada: Person) -> None:
    run = await start(system, ada, agent="sleeper", input_json='{"seconds":60}')
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "RUN_NOT_OVER"):
        await repeat(system, ada, run.run_id)
    await Runs(system, ada).cancel(run.run_id)


async def test_another_users_run_cannot_be_repeated(system: System, ada: Person, eve: Person) -> None:
    old = await start(system, ada)
    await Runs(system, ada).story(old.run_id)
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        await repeat(system, eve, old.run_id)
    assert not (await Runs(system, eve).list()).runs
