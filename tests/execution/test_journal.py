"""What a run has done is not done again, wherever it goes on; and what it asks for must be what it asked for."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from carrel import Client
from carrel.api.runs.v1 import run_pb2
from carrel_chassis.ids import new_id
from tests.execution.test_runs import FAILED, SUCCEEDED, Runs, types
from tests.support.expect import eventually, refused
from tests.support.journals import Journals, effects
from tests.support.system import Person, System


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


@pytest.fixture
def eves(system: System, eve: Person) -> Runs:
    return Runs(system, eve)


async def started(runs: Runs, agent: str, input: dict[str, Any], *, events: int = 0) -> run_pb2.Run:
    """A run, when its log has so many events."""
    run = await runs.start(agent, input)

    async def look() -> bool:
        return len(await runs.events(run.run_id)) >= events

    await eventually(look)
    return run


async def killed(system: System) -> None:
    """The execution process is dead, and another is there."""
    system.stack.kill("execution", signal.SIGKILL)
    await system.stack.ready(30)


async def test_each_kind_of_step_is_done_once_though_its_worker_is_killed(mortal: System) -> None:
    person, key = await mortal.person(), new_id("key")
    runs = Runs(mortal, person)
    run = await started(runs, "journaling", {"key": key, "seconds": 2.0}, events=7)

    async def all_done() -> bool:
        return "agent_thinking" in types(await runs.events(run.run_id))

    await eventually(all_done)
    before = {step.step_id: step for step in await Journals(mortal, person).steps(run.run_id)}
    await killed(mortal)
    ended = await runs.until(run.run_id, SUCCEEDED)
    result = json.loads(ended.result_json)
    assert ended.attempt == 2 and result["later"] > result["time"]
    for what in ("step", "failure", "agent", "tool"):
        assert effects(mortal, f"{key}-{what}") == 1, what
    after = {step.step_id: step for step in await Journals(mortal, person).steps(run.run_id)}
    assert before.items() <= after.items()
    kept = {step.name: json.loads(step.result_json or "null") for step in before.values()}
    assert kept == {"now": result["time"], "work": result["step"], "fails": None, "effecting": result["agent"]}
    assert after["2"].error.reason == result["failure"] == "NOT_TODAY"


async def test_the_first_attempt_writes_its_steps_in_the_order_in_which_they_begin(
    runs: Runs, system: System, ada: Person
) -> None:
    run = await runs.start("journaling", {"key": new_id("key")})
    await runs.until(run.run_id, SUCCEEDED)
    journals = Journals(system, ada)
    steps = await journals.steps(run.run_id)
    kinds = [(step.step_id, step.kind, step.state, step.attempt) for step in steps]
    assert kinds == [
        ("c1", run_pb2.STEP_KIND_LOCAL, run_pb2.STEP_STATE_SUCCEEDED, 1),
        ("1", run_pb2.STEP_KIND_LOCAL, run_pb2.STEP_STATE_SUCCEEDED, 1),
        ("2", run_pb2.STEP_KIND_LOCAL, run_pb2.STEP_STATE_FAILED, 1),
        ("3", run_pb2.STEP_KIND_AGENT, run_pb2.STEP_STATE_SUCCEEDED, 1),
    ]
    first = await journals.step_page(run.run_id, page_size=3)
    second = await journals.step_page(run.run_id, page_size=3, page_token=first.next_page_token)
    assert [*first.steps, *second.steps] == steps and not second.next_page_token
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await journals.step_page("run-of-another-list", page_token=first.next_page_token)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await journals.step_page(run.run_id, page_size=201)


async def test_another_user_does_not_see_the_journal(runs: Runs, system: System, eve: Person) -> None:
    run = await runs.start("journaling", {"key": new_id("key")})
    await runs.until(run.run_id, SUCCEEDED)
    journals = Journals(system, eve)
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND") as foreign:
        await journals.steps(run.run_id)
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND") as missing:
        await journals.steps("run-that-never-was")
    assert foreign.error.message.replace(run.run_id, "run-that-never-was") == missing.error.message


async def test_what_must_not_be_repeated_and_was_begun_is_unknown(mortal: System) -> None:
    person, key = await mortal.person(), new_id("key")
    runs = Runs(mortal, person)
    run = await runs.start("once_only", {"key": key, "seconds": 60})

    async def begun() -> bool:
        return effects(mortal, key) == 1

    await eventually(begun)
    [step] = await Journals(mortal, person).steps(run.run_id)
    assert step.state == run_pb2.STEP_STATE_INTENDED
    await killed(mortal)
    ended = await runs.until(run.run_id, SUCCEEDED)
    assert (json.loads(ended.result_json), effects(mortal, key)) == ({"unknown": "OUTCOME_UNKNOWN"}, 1)
    [step] = await Journals(mortal, person).steps(run.run_id)
    assert (step.state, step.attempt) == (run_pb2.STEP_STATE_UNKNOWN, 2)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("name", "asks for the step second now and for the step first before"),
        ("kind", "asks for the agent effecting now and for the step first before"),
        ("input", "asks for the agent effecting now with another input before"),
        ("tool", "asks for the tool echo now with other arguments before"),
    ],
)
async def test_an_agent_that_asks_for_something_else_is_told_what(
    mortal: System, tmp_path: Path, kind: str, says: str
) -> None:
    person = await mortal.person()
    runs, journals = Runs(mortal, person), Journals(mortal, person)
    run = await runs.start("fickle", {"kind": kind, "marker": str(tmp_path / "marker")})

    async def written() -> bool:
        if kind in ("tool", "input"):
            return "tool_completed" in types(await runs.events(run.run_id))
        return bool(await journals.steps(run.run_id))

    await eventually(written)
    await killed(mortal)
    ended = await runs.until(run.run_id, FAILED)
    assert ended.error.reason == "JOURNAL_MISMATCH" and says in ended.error.message, ended.error.message
    assert ended.agent_version == "7"


async def test_a_run_that_fails_is_tried_again_and_does_only_what_had_failed(runs: Runs, system: System) -> None:
    key = new_id("key")
    run = await runs.start("trying", {"key": key, "failures": 2})
    events = await runs.story(run.run_id)
    ended = await runs.get(run.run_id)
    assert (ended.state, ended.retries, ended.attempt) == (SUCCEEDED, 2, 3)
    assert (effects(system, f"{key}-good"), effects(system, f"{key}-bad")) == (1, 3)
    retried = [event.run_retried for event in events if event.type == "run_retried"]
    assert [(each.retry, each.reason) for each in retried] == [(1, "NOT_YET"), (2, "NOT_YET")]


async def test_a_tool_that_has_failed_is_called_again_and_one_that_has_succeeded_is_not(
    runs: Runs, system: System, ada: Person
) -> None:
    key = new_id("key")
    run = await runs.start("insisting", {"key": key})
    ended = await runs.until(run.run_id, FAILED)
    assert (ended.retries, effects(system, key)) == (2, 1)
    async with Client(system.addresses["gateway"], ada.token) as client:
        calls = [call async for call in client.list_tool_calls(run.run_id)]
    assert [(call.step_id, call.tool) for call in reversed(calls)] == [
        ("1", "count"),
        ("2", "crash"),
        ("2~1", "crash"),
        ("2~2", "crash"),
    ]


@pytest.mark.parametrize(("failures", "reason", "done"), [(3, "NOT_YET", 3), (1, "NEVER", 1)])
async def test_a_run_is_not_tried_again_more_often_or_for_other_reasons_than_its_agent_says(
    runs: Runs, system: System, failures: int, reason: str, done: int
) -> None:
    key = new_id("key")
    run = await runs.start("trying", {"key": key, "failures": failures, "reason": reason})
    ended = await runs.until(run.run_id, FAILED)
    assert (ended.error.reason, ended.retries, effects(system, f"{key}-bad")) == (reason, done - 1, done)


async def test_what_a_thread_keeps_goes_from_run_to_run_of_one_user(runs: Runs, eves: Runs) -> None:
    async def said(whose: Runs, word: str, **more: str) -> Any:
        run = await whose.start("remembering", {"word": word, **more}, thread_id="thread-of-words")
        await whose.story(run.run_id)
        return json.loads((await whose.get(run.run_id)).result_json or "null")

    assert await said(runs, "one") == ["one"]
    assert await said(runs, "two", then="fail") is None
    assert await said(eves, "other") == ["other"]
    assert await said(runs, "three") == ["one", "two", "three"]


@pytest.mark.parametrize(("deltas", "bound"), [(False, "2000 events"), (True, "3000 pieces")])
async def test_a_million_events_end_the_run_and_not_the_process(mortal: System, deltas: bool, bound: str) -> None:
    runs = Runs(mortal, await mortal.person())
    run = await runs.start("talkative", {"deltas": deltas})
    ended = await runs.until(run.run_id, FAILED)
    assert ended.error.reason == "TOO_MANY_EVENTS" and bound in ended.error.message
