"""The test kit: an agent step by step, through crashes, with people, tools and models that the test plays."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

import carrel
from carrel.agent import JSON, AgentError, OutcomeUnknown, RunContext, ToolError
from carrel.testing import AgentRun, Call, ModelReply, Step, Waiting
from tests.execution.test_runs import SUCCEEDED, Runs
from tests.support.agents_of_the_kit import kit_adding, kit_all, kit_parallel
from tests.support.journals import Journals
from tests.support.system import Person, System

TOOLS = {"echo": lambda text: {"text": text}}


@carrel.agent
async def working(context: RunContext, input: dict[str, bool]) -> JSON:
    """Does a tool, a step, a model and a look at the clock."""
    effects: list[str] = EFFECTS

    async def work() -> JSON:
        effects.append("work")
        return len(effects)

    said = await context.tools.call("echo", text="hello")
    begin = await context.clock.now()
    try:
        worked = await context.step("work", work, at_most_once=input.get("once", False))
    except OutcomeUnknown as error:
        worked = error.reason
    answer = await context.model.ask("And?")
    return {"said": said["text"], "begin": begin, "worked": worked, "answer": answer.text}


EFFECTS: list[str] = []


@pytest.fixture(autouse=True)
def no_effects() -> None:
    EFFECTS.clear()


def run_of_working(**input: bool) -> AgentRun:
    clock = count(1000.0)
    return AgentRun(working, input, tools=TOOLS, models={"small": ["Yes.", "Again."]}, clock=lambda: next(clock))


async def test_a_run_is_followed_step_by_step() -> None:
    run = run_of_working()
    assert await run.advance() == Step("TOOL", "echo", "1")
    assert run.calls == [Call("echo", {"text": "hello"})] and EFFECTS == []
    assert await run.advance() == Step("LOCAL", "work", "2")
    assert await run.advance() == Step("MODEL", "small", "3")
    assert await run.advance() is None
    assert await run.finish() == {"said": "hello", "begin": 1000.0, "worked": 1, "answer": "Yes."}
    assert [event.type for event in run.events] == [
        "agent_started",
        "tool_executing",
        "tool_completed",
        "partial_result",
        "agent_completed",
    ]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
async def test_after_a_crash_at_any_step_what_was_done_is_not_done_again(steps: int) -> None:
    whole = await run_of_working().finish()
    EFFECTS.clear()
    run = run_of_working()
    for _ in range(steps):
        await run.advance()
    await run.crash()
    resumed = await run.finish()
    assert {**resumed, "begin": 0} == {**whole, "begin": 0}
    assert (len(run.calls), len(EFFECTS), len(run.model_requests)) == (1, 1, 1)
    assert len({event.event_id for event in run.events}) == len(run.events)
    assert run.attempt == (2 if steps else 1)


async def test_a_step_whose_worker_dies_half_way_is_done_again_and_one_that_must_not_be_is_unknown() -> None:
    for once, worked, effects in ((False, 2, 2), (True, "OUTCOME_UNKNOWN", 1)):
        EFFECTS.clear()
        run = run_of_working(once=once)
        await run.advance()
        await run.crash_in_next()
        assert (await run.finish())["worked"] == worked
        assert len(EFFECTS) == effects


async def test_a_tool_whose_worker_dies_half_way_is_not_called_again() -> None:
    run = run_of_working()
    await run.crash_in_next()
    await run.finish()
    assert len(run.calls) == 1


async def test_an_agent_that_asks_for_something_else_after_a_crash_fails_whatever_it_catches() -> None:
    tool = iter(["echo", "other"])

    @carrel.agent
    async def fickle(context: RunContext, input: JSON) -> JSON:
        """Calls another tool each time."""
        try:
            await context.tools.call(next(tool), text="x")
            await context.tools.call("echo", text="y")
        except AgentError:
            return "caught"

    run = AgentRun(fickle, tools=TOOLS | {"other": lambda text: text})
    await run.advance()
    await run.crash()
    with pytest.raises(AgentError) as caught:
        await run.finish()
    assert caught.value.reason == "JOURNAL_MISMATCH"
    assert "the tool other now and for the tool echo before" in caught.value.message


async def test_people_answer_and_consent() -> None:
    @carrel.agent
    async def asking(context: RunContext, input: JSON) -> JSON:
        """Asks twice."""
        city = await context.wait_for.input("Which city?", {"type": "string"})
        return {"city": city, "sure": await context.wait_for.approval(f"Is it {city}?")}

    run = AgentRun(asking)
    with pytest.raises(Waiting):
        await run.finish()
    await run.answer("Ulm")
    assert await run.advance() == Step("WAIT", "Is it Ulm?", "2")
    await run.answer(False)
    assert await run.finish() == {"city": "Ulm", "sure": False}
    assert run.events_of("approval_resolved") == [{"approved": False}]


async def test_tools_and_models_fail_as_the_test_says() -> None:
    def broken(**arguments: JSON) -> JSON:
        raise ToolError("BROKEN", "It is broken.")

    @carrel.agent
    async def trying(context: RunContext, input: JSON) -> list[str]:
        """Tries all."""
        reasons = []
        for attempt in (
            context.tools.call("broken"),
            context.tools.call("none"),
            context.model.ask("?"),
            context.model.ask("?"),
        ):
            try:
                await attempt
            except AgentError as error:
                reasons.append(error.reason)
        return reasons

    busy = AgentError("MODEL_UNAVAILABLE", "Too busy.")
    run = AgentRun(trying, tools={"broken": broken}, models={"small": [busy]})
    assert await run.finish() == ["BROKEN", "TOOL_NOT_FOUND", "MODEL_UNAVAILABLE", "MODEL_UNAVAILABLE"]


async def test_a_model_may_want_tools() -> None:
    @carrel.agent
    async def plain(context: RunContext, input: JSON) -> JSON:
        """Hands on what a model says."""
        return (await context.model.request({"messages": [], "settings": {}, "parameters": {}}))["response"]["parts"]

    run = AgentRun(plain, models={"small": [ModelReply(calls=[("echo", {"text": "x"})])]})
    [part] = await run.finish()
    assert (part["part_kind"], part["tool_name"], part["args"]) == ("tool-call", "echo", {"text": "x"})


CASES: list[tuple[Any, dict[str, JSON]]] = [
    (kit_adding, {"a": 1, "b": 2}),
    (kit_all, {"text": "hello"}),
    (kit_parallel, {}),
]


@pytest.mark.parametrize(("agent", "input"), CASES, ids=[case[0].name for case in CASES])
async def test_the_kit_and_agent_execution_make_the_same_of_an_agent(
    system: System, ada: Person, agent: Any, input: dict[str, JSON]
) -> None:
    """The same steps at the same places with the same results, and the same events under the same ids."""
    runs = Runs(system, ada)
    started = await runs.start(agent.name, input)
    events = await runs.story(started.run_id)
    ended = await runs.until(started.run_id, SUCCEEDED)
    steps = await Journals(system, ada).steps(started.run_id)

    here = AgentRun(agent, input, tools=TOOLS, agents=[kit_adding])
    assert await here.finish() == json.loads(ended.result_json)

    def comparable(place: str, name: str, result: str, reason: str) -> tuple[str, str, str, str]:
        return (place, name, "" if name == "now" else result, reason)

    assert {comparable(each.step_id, each.name, each.result_json, each.error.reason) for each in steps} == {
        comparable(each.step_id, each.name, each.result_json, each.error_reason) for each in here.journal.steps.values()
    }
    prefix = len(started.run_id)
    told = sorted((event.event_id[prefix:], event.type, event.agent) for event in events if event.type != "run_queued")
    assert told == sorted((event.event_id[len(here.run_id) :], event.type, event.agent) for event in here.events)
