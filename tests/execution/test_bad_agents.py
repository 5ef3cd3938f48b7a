"""Agents in the loop that do what an agent must not: their user is told in one final event, and others notice nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.execution.test_runs import CANCELLED, DEAD, FAILED, SUCCEEDED, Runs, types
from tests.support.expect import eventually
from tests.support.system import Person, System


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


@pytest.fixture
def others(system: System, eve: Person) -> Runs:
    return Runs(system, eve)


@pytest.mark.parametrize(
    ("does", "state", "reason"),
    [
        ("exit", DEAD, "AGENT_DIED"),
        ("interrupt", DEAD, "AGENT_DIED"),
        ("exit_in_a_task", DEAD, "AGENT_DIED"),
        ("recurse", FAILED, "AGENT_CRASHED"),
        ("return_much", FAILED, "RESULT_TOO_LARGE"),
        ("fork", FAILED, "FORK_FORBIDDEN"),
        ("change_its_class", FAILED, "CLASS_FROZEN"),
        ("keep_its_context", SUCCEEDED, ""),
    ],
)
async def test_each_ends_its_own_run_and_no_other(
    system: System, runs: Runs, others: Runs, does: str, state: int, reason: str
) -> None:
    process = system.stack.pids()["execution"]
    beside = await others.start("counting", {"calls": 5, "seconds": 0.1})
    run = await runs.start("rogue", {"does": does})
    await runs.story(run.run_id)
    ended = await runs.get(run.run_id)
    assert (ended.state, ended.error.reason) == (state, reason), ended.error
    assert (await others.story(beside.run_id))[-1].type == "agent_completed"
    assert (await others.get(beside.run_id)).attempt == 1
    assert system.stack.pids()["execution"] == process


async def test_a_task_that_an_agent_leaves_does_nothing_after_it(runs: Runs, tmp_path: Path) -> None:
    file = tmp_path / "left"
    run = await runs.start("rogue", {"does": "leave_a_task", "file": str(file)})
    await runs.story(run.run_id)
    # Another agent's task, as long as the one that was left would have taken twice over.
    later = await runs.start("rogue", {"does": "sleep", "seconds": 0.4})
    await runs.story(later.run_id)
    assert not await asyncio.to_thread(file.exists)


async def test_an_agent_that_swallows_its_cancellation_is_left_behind(runs: Runs) -> None:
    run = await runs.start("rogue", {"does": "swallow_cancellation"})

    async def at_work() -> bool:
        return "agent_thinking" in types(await runs.events(run.run_id))

    await eventually(at_work)
    await runs.cancel(run.run_id, "enough")
    assert (await runs.story(run.run_id))[-1].type == "run_cancelled"
    assert (await runs.get(run.run_id)).state == CANCELLED
