"""A run waits for its user without a process: for input and for consent, through restarts of everything."""

from __future__ import annotations

import json
import signal
from typing import Any

import grpc
import pytest

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.ids import new_id
from tests.execution.test_runs import CANCELLED, SUCCEEDED, Runs, types
from tests.support.expect import eventually, refused
from tests.support.journals import Journals, effects
from tests.support.system import Person, System

WAITING = run_pb2.RUN_STATE_WAITING
NEVER = {"number": 7}


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


@pytest.fixture
def journals(system: System, ada: Person) -> Journals:
    return Journals(system, ada)


@pytest.mark.parametrize("agent", ["asking", "asking_apart"])
async def test_a_run_asks_lets_go_and_goes_on_with_the_answer(
    system: System, runs: Runs, journals: Journals, agent: str
) -> None:
    key = new_id("key")
    run = await runs.start(agent, {"key": key})
    [wait] = await journals.asked(run.run_id)
    assert (wait.run_id, wait.kind, wait.prompt) == (run.run_id, run_pb2.WAIT_KIND_INPUT, "Which number?")
    asleep = await runs.get(run.run_id)
    assert (asleep.state, list(asleep.wait_ids)) == (WAITING, [wait.wait_id])
    resolved = await journals.answer(wait.wait_id, {"number": 7})
    assert resolved.state == run_pb2.WAIT_STATE_RESOLVED
    events = await runs.story(run.run_id)
    assert types(events)[:1] + types(events)[-4:] == [
        "run_queued",
        "input_requested",
        "input_received",
        "progress_update",
        "agent_completed",
    ]
    assert events[-4].input_requested.wait_id == events[-3].input_received.wait_id == wait.wait_id
    assert json.loads(events[-4].input_requested.answer_schema_json)["required"] == ["number"]
    assert json.loads((await runs.get(run.run_id)).result_json)["answer"] == 7
    assert effects(system, f"{key}-before") == 1
    [_, step] = await journals.steps(run.run_id)
    assert (step.kind, step.state) == (run_pb2.STEP_KIND_WAIT, run_pb2.STEP_STATE_SUCCEEDED)


async def test_while_it_waits_it_takes_no_place_of_its_user(runs: Runs, journals: Journals) -> None:
    waiting = [await runs.start("asking") for _ in range(6)]  # more than may run at once
    await journals.asked("", 6)
    other = await runs.start("counting", {"calls": 1})
    await runs.until(other.run_id, SUCCEEDED)
    for run in waiting:
        assert (await runs.cancel(run.run_id)).state == CANCELLED


async def test_an_agent_may_ask_several_things_at_once(runs: Runs, journals: Journals) -> None:
    run = await runs.start("asking", {"at_once": True})
    waits = {wait.prompt: wait for wait in await journals.asked(run.run_id, 2)}
    await journals.answer(waits["And which word?"].wait_id, "seven")
    [left] = await journals.asked(run.run_id)
    await runs.until(run.run_id, WAITING)
    await journals.answer(left.wait_id, {"number": 7})
    events = await runs.story(run.run_id)
    assert types(events).count("input_requested") == types(events).count("input_received") == 2
    assert json.loads((await runs.get(run.run_id)).result_json)["answers"] == [{"number": 7}, "seven"]


async def test_an_answer_must_fit_its_schema(runs: Runs, journals: Journals) -> None:
    run = await runs.start("asking")
    [wait] = await journals.asked(run.run_id)
    for wrong, field in (({"number": "7"}, "answer_json.number"), ({}, "answer_json"), ([], "answer_json")):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
            await journals.answer(wait.wait_id, wrong)
        assert field in refusal.error.fields, refusal.error.fields
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await journals.answer(wait.wait_id, "x" * (256 * 1024))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await journals.decide(wait.wait_id, True, "")
    await journals.answer(wait.wait_id, NEVER)
    assert (await journals.answer(wait.wait_id, NEVER)).state == run_pb2.WAIT_STATE_RESOLVED
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "WAIT_OVER"):
        await journals.answer(wait.wait_id, {"number": 8})
    await runs.until(run.run_id, SUCCEEDED)


async def test_nobody_else_sees_the_question_or_answers_it(
    system: System, runs: Runs, journals: Journals, ada: Person, eve: Person
) -> None:
    run = await runs.start("asking")
    [wait] = await journals.asked(run.run_id)
    colleague = await system.person(ada.tenant_id)
    for person in (eve, colleague):
        foreign = Journals(system, person)
        assert await foreign.waits() == await foreign.waits(run.run_id) == []
        with refused(grpc.StatusCode.NOT_FOUND, "WAIT_NOT_FOUND") as other:
            await foreign.answer(wait.wait_id, NEVER)
        with refused(grpc.StatusCode.NOT_FOUND, "WAIT_NOT_FOUND") as missing:
            await foreign.answer("wait-that-never-was", NEVER)
        assert other.error.message.replace(wait.wait_id, "wait-that-never-was") == missing.error.message
    [still] = await journals.waits(run.run_id)
    assert still.state == run_pb2.WAIT_STATE_PENDING
    await runs.cancel(run.run_id)


async def test_a_run_cannot_answer_for_its_user(system: System, runs: Runs, journals: Journals, ada: Person) -> None:
    run = await runs.start("asking")
    [wait] = await journals.asked(run.run_id)
    request = pb.ResolveWaitRequest(wait_id=wait.wait_id, answer_json='{"number":7}')
    stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
    signed = await system.run_context(ada, run.run_id)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "RUN_CANNOT_RESOLVE"):
        await stub.ResolveWait(request, metadata=(("user-context-bin", signed),), timeout=10.0)
    await runs.cancel(run.run_id)


async def test_what_nobody_answers_in_time_expires_and_the_agent_learns_it(runs: Runs, journals: Journals) -> None:
    run = await runs.start("asking", {"timeout": 0.3})
    events = await runs.story(run.run_id)
    assert (types(events)[-2:], events[-2].input_received.expired) == (["input_received", "agent_failed"], True)
    assert events[-1].agent_failed.reason == "WAIT_EXPIRED"
    [wait] = await journals.waits(run.run_id, states=[run_pb2.WAIT_STATE_EXPIRED])
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "WAIT_OVER"):
        await journals.answer(wait.wait_id, NEVER)


async def test_a_cancelled_run_waits_for_nothing(runs: Runs, journals: Journals) -> None:
    run = await runs.start("asking")
    [wait] = await journals.asked(run.run_id)
    answer = await journals.cancel(run.run_id, 5.0)
    assert answer.run.state == CANCELLED and [part.kind for part in answer.stopped] == ["run"]
    assert types(await runs.story(run.run_id))[-1] == "run_cancelled"
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "WAIT_OVER"):
        await journals.answer(wait.wait_id, NEVER)
    assert await journals.waits(run.run_id) == []


async def test_waits_are_listed_by_page_oldest_first(runs: Runs, journals: Journals) -> None:
    started = [await runs.start("asking") for _ in range(3)]
    asked = [wait.wait_id for wait in await journals.asked("", 3)]
    first = await journals.wait_page(page_size=2)
    second = await journals.wait_page(page_size=2, page_token=first.next_page_token)
    assert [wait.wait_id for wait in (*first.waits, *second.waits)] == asked and not second.next_page_token
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await journals.wait_page(started[0].run_id, page_token=first.next_page_token)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await journals.wait_page(states=[99])
    for run in started:
        await runs.cancel(run.run_id)


async def test_a_question_outlives_every_process_and_the_database_server(mortal: System) -> None:
    person = await mortal.person()
    runs, journals = Runs(mortal, person), Journals(mortal, person)
    run = await runs.start("asking")
    [wait] = await journals.asked(run.run_id)
    for child in ("execution", "tools", "events", "postgres"):
        mortal.stack.kill(child, signal.SIGKILL)
        await mortal.stack.ready(30)

    async def answered() -> Any:
        try:
            return await journals.answer(wait.wait_id, NEVER)
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            return None

    await eventually(answered)
    ended = await runs.until(run.run_id, SUCCEEDED)
    assert (json.loads(ended.result_json)["answer"], ended.attempt) == (7, 2)


async def test_an_answer_that_comes_before_the_run_has_let_go_is_not_lost(mortal: System) -> None:
    """The process dies right after the answer, with the run queued or claimed: it goes on elsewhere."""
    person = await mortal.person()
    runs, journals = Runs(mortal, person), Journals(mortal, person)
    run = await runs.start("asking")
    [wait] = await journals.asked(run.run_id)
    await journals.answer(wait.wait_id, NEVER)
    mortal.stack.kill("execution", signal.SIGKILL)
    await mortal.stack.ready(30)
    assert json.loads((await runs.until(run.run_id, SUCCEEDED)).result_json)["answer"] == 7
    events = await runs.story(run.run_id)
    assert types(events).count("input_received") == 1


def posting(key: str) -> dict[str, Any]:
    return {"tool": "post", "arguments": {"key": key, "ask": True}}


async def test_a_call_that_needs_consent_is_made_once_with_it(system: System, runs: Runs, journals: Journals) -> None:
    key = new_id("key")
    run = await runs.start("consenting", posting(key))
    [wait] = await journals.asked(run.run_id)
    assert (wait.kind, wait.tool, json.loads(wait.arguments_json)["key"]) == (run_pb2.WAIT_KIND_APPROVAL, "post", key)
    assert effects(system, key) == 0
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await journals.decide(wait.wait_id, True, "0" * 64)
    assert list(refusal.error.fields) == ["approval.arguments_digest"]
    await journals.decide(wait.wait_id, True, wait.arguments_digest)
    events = await runs.story(run.run_id)
    assert json.loads((await runs.get(run.run_id)).result_json) == {"result": {"posted": key}}
    assert effects(system, key) == 1
    asked, resolved = (next(e for e in events if e.type == f"approval_{what}") for what in ("requested", "resolved"))
    assert asked.approval_requested.arguments_digest == wait.arguments_digest
    assert resolved.approval_resolved.approved


async def test_a_call_without_consent_is_not_made(system: System, runs: Runs, journals: Journals) -> None:
    key = new_id("key")
    run = await runs.start("consenting", posting(key))
    [wait] = await journals.asked(run.run_id)
    await journals.decide(wait.wait_id, False, wait.arguments_digest)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "WAIT_OVER"):
        await journals.decide(wait.wait_id, True, wait.arguments_digest)
    ended = await runs.until(run.run_id, SUCCEEDED)
    assert (json.loads(ended.result_json), effects(system, key)) == ({"refused": "APPROVAL_DENIED"}, 0)


async def test_nobody_else_consents(system: System, runs: Runs, journals: Journals, eve: Person) -> None:
    key = new_id("key")
    run = await runs.start("consenting", posting(key))
    [wait] = await journals.asked(run.run_id)
    with refused(grpc.StatusCode.NOT_FOUND, "WAIT_NOT_FOUND"):
        await Journals(system, eve).decide(wait.wait_id, True, wait.arguments_digest)
    assert (await runs.get(run.run_id)).state == WAITING and effects(system, key) == 0
    await runs.cancel(run.run_id)
