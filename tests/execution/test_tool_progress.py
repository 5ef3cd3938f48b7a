"""How far a tool has come, as its user is told by the events of the run."""

from __future__ import annotations

import pytest

from carrel.api.events.v1 import event_pb2
from carrel_execution.attempt.tool_progress import PAUSE_SECONDS, ToolProgress
from tests.execution.test_runs import SUCCEEDED, Runs, types
from tests.support.system import Person, System


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


async def test_the_first_is_told_and_then_one_after_each_pause() -> None:
    told: list[tuple[str, event_pb2.ProgressUpdate]] = []
    now = 1000.0

    async def emit(place: str, update: event_pb2.ProgressUpdate) -> None:
        told.append((place, update))

    tell = ToolProgress(emit, "3~1", "run-1.3", lambda: now)
    for step in range(1, 101):
        await tell(f"step {step}", step, 100)
        now += PAUSE_SECONDS / 8
    assert [(place, update.done) for place, update in told[:3]] == [
        ("3~1.progress1", 1),
        ("3~1.progress2", 9),
        ("3~1.progress3", 17),
    ]
    assert len(told) == 13 and {update.tool_call_id for _, update in told} == {"run-1.3"}


async def test_what_a_tool_tells_reaches_its_user_between_its_beginning_and_its_end(runs: Runs) -> None:
    run = await runs.start("consenting", {"tool": "walk", "arguments": {"steps": 3}})
    await runs.until(run.run_id, SUCCEEDED)
    story = await runs.story(run.run_id)
    assert types(story)[-4:] == ["tool_executing", "progress_update", "tool_completed", "agent_completed"]
    executing, update, completed, _ = story[-4:]
    assert update.event_id == f"{run.run_id}.1.progress1"
    assert (update.progress_update.done, update.progress_update.total) == (1, 3)
    calls = {executing.tool_executing.tool_call_id, completed.tool_completed.tool_call_id}
    assert calls == {update.progress_update.tool_call_id}


async def test_nobody_else_is_told(runs: Runs, system: System, eve: Person) -> None:
    run = await runs.start("consenting", {"tool": "walk", "arguments": {"steps": 3}})
    await runs.until(run.run_id, SUCCEEDED)
    await runs.story(run.run_id)
    assert await Runs(system, eve).events(run.run_id) == []


async def test_a_refusal_and_a_failure_are_what_they_are_without_a_stream(runs: Runs) -> None:
    for tool, reason in (("no_such_tool", "TOOL_NOT_FOUND"), ("crash", "TOOL_CRASHED")):
        run = await runs.start("consenting", {"tool": tool})
        ended = await runs.until(run.run_id, SUCCEEDED)
        assert reason in ended.result_json
    run = await runs.start("consenting", {"tool": "walk", "arguments": {"steps": "many"}})
    assert "INVALID_ARGUMENT" in (await runs.until(run.run_id, SUCCEEDED)).result_json
