"""What a process keeps of the calls that it executes: nothing, once they are over; and how one of them is stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from carrel_chassis.errors import CarrelError
from carrel_tools.domain import CANCELLED, Ending, Outcome, Repeat, Step
from carrel_tools.in_flight import InFlight, Stop
from carrel_tools.tool import JSON, Desk, Probe, Tool
from carrel_tools.tool_run import probe_tool, run_tool

OWNER = ("acme", "ada")
KEY = (*OWNER, "run-1.1")
NO_DESK: Any = None
"""These tools touch nothing."""


def step(attempt: int = 1, repeat: Repeat = Repeat.IDEMPOTENT, step_id: str = "1") -> Step:
    return Step("run-1", step_id, attempt, "echo", "", repeat, "default", "0")


class Patient(Tool):
    """Waits for ever."""

    name = "patient"

    async def execute(self, arguments: object, desk: Desk) -> JSON:
        await asyncio.Event().wait()

    async def probe(self, arguments: object, desk: Desk) -> Probe:
        await asyncio.Event().wait()
        raise AssertionError


class Again(Patient):
    """The same, and may run twice."""

    idempotent = True


def test_nothing_is_kept_of_calls_that_are_over():
    calls = InFlight()
    for number in range(1000):
        with calls.alone(OWNER, step(step_id=str(number))):
            assert calls.keys == [(*OWNER, f"run-1.{number}")]
        with pytest.raises(ValueError), calls.alone(OWNER, step(step_id=str(number))):
            raise ValueError
    assert calls.keys == []


def test_what_is_refused_leaves_the_one_under_way_alone():
    calls = InFlight()
    with calls.alone(OWNER, step(attempt=2, repeat=Repeat.AT_MOST_ONCE)):
        for attempt, reason in ((1, "STALE_ATTEMPT"), (2, "UNAVAILABLE"), (3, "UNAVAILABLE")):
            with pytest.raises(CarrelError) as refused, calls.alone(OWNER, step(attempt, Repeat.AT_MOST_ONCE)):
                raise AssertionError
            assert refused.value.reason == reason
        assert calls.keys == [KEY]


def test_all_attempts_at_a_call_are_stopped_and_no_other_call():
    calls = InFlight()
    with (
        calls.alone(OWNER, step(1)) as first,
        calls.alone(OWNER, step(2)) as second,
        calls.alone(OWNER, step(step_id="2")) as another,
        calls.alone(("acme", "bob"), step()) as anothers,
    ):
        calls.stop(KEY)
        assert (first.asked, second.asked, another.asked, anothers.asked) == (True, True, False, False)
    calls.stop(KEY)
    assert calls.keys == []


@pytest.mark.parametrize(("tool", "outcome"), [(Again(), Outcome.FAILED), (Patient(), Outcome.UNKNOWN)])
async def test_a_tool_at_work_ends_as_its_policy_says(tool: Tool, outcome: Outcome):
    stop = Stop()
    asyncio.get_running_loop().call_soon(stop.ask)
    ending = await run_tool(tool, {}, NO_DESK, None, stop)
    assert (ending.outcome, ending.error_reason) == (outcome, CANCELLED)


async def test_a_tool_that_has_not_begun_does_not_and_has_no_effect():
    stop = Stop()
    stop.ask()
    ending = await run_tool(Patient(), {}, NO_DESK, None, stop)
    assert (ending.outcome, ending.error_reason) == (Outcome.FAILED, CANCELLED)


async def test_a_look_that_is_cut_short_leaves_it_unknown():
    stop = Stop()
    asyncio.get_running_loop().call_soon(stop.ask)
    ending = await probe_tool(Patient(), {}, NO_DESK, None, stop)
    assert isinstance(ending, Ending) and (ending.outcome, ending.error_reason) == (Outcome.UNKNOWN, CANCELLED)


async def test_a_tool_that_is_late_is_not_cancelled():
    ending = await run_tool(Again(), {}, NO_DESK, 0.01, Stop())
    assert (ending.outcome, ending.error_reason) == (Outcome.FAILED, "TOOL_TIMEOUT")
