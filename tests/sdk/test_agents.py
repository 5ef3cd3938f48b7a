"""Agents as authors write them: functions and classes with types, and what is said of those that cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from pydantic import BaseModel, Field

import carrel
from carrel.agent import Agent, AgentError, RunContext
from carrel.testing import AgentRun
from tests.execution.test_runs import Runs
from tests.support.expect import refused
from tests.support.system import Person, System


class Question(BaseModel):
    text: str = Field(min_length=1)
    times: int = 1


@dataclass
class Answer:
    text: str


@carrel.agent
async def repeat(context: RunContext, input: Question) -> Answer:
    """Repeats a text."""
    return Answer(input.text * input.times)


class Repeat(Agent[Question, Answer]):
    name = "repeat_by_class"

    async def run(self, context: RunContext, input: Question) -> Answer:
        return Answer(input.text * input.times)


class RepeatByHints(Agent):  # type: ignore[type-arg]
    name = "repeat_by_hints"

    async def run(self, context: RunContext, input: Question) -> Answer:  # type: ignore[override]
        return Answer(input.text * input.times)


@pytest.mark.parametrize("agent", [repeat, Repeat, RepeatByHints])
async def test_types_are_derived_and_checked_both_ways(agent: type[Agent[Any, Any]]) -> None:
    assert agent.input_schema is not None and agent.output_schema is not None
    assert agent.input_schema["properties"]["text"]["minLength"] == 1
    assert agent.output_schema["properties"] == {"text": {"title": "Text", "type": "string"}}
    assert await AgentRun(agent, {"text": "a", "times": 2}).finish() == {"text": "aa"}
    with pytest.raises(AgentError) as caught:
        await AgentRun(agent, {"text": "", "times": "many"}).finish()
    assert caught.value.reason == "INVALID_INPUT"
    assert "text: String should have at least 1 character" in caught.value.message
    assert "times: Input should be a valid integer" in caught.value.message


async def test_an_agent_runs_another_by_its_class_with_typed_values() -> None:
    @carrel.agent
    async def outer(context: RunContext, input: Question) -> str:
        """Has another repeat."""
        answer = await context.agents.run(repeat, Question(text=input.text, times=2))
        return answer.text

    assert await AgentRun(outer, {"text": "ab"}, agents=[repeat]).finish() == "abab"


async def test_a_result_of_another_type_is_refused() -> None:
    @carrel.agent
    async def wrong(context: RunContext, input: Question) -> int:
        """Returns no number."""
        return "many"  # type: ignore[return-value]

    with pytest.raises(AgentError) as caught:
        await AgentRun(wrong, {"text": "a"}).finish()
    assert caught.value.reason == "RESULT_INVALID" and "wrong returned what is not its result" in caught.value.message


def test_the_name_and_the_description_are_the_functions_own() -> None:
    assert (repeat.name, repeat.description) == ("repeat", "Repeats a text.")
    assert carrel.agent(name="other", version="7")(repeat.function).name == "other"  # type: ignore[attr-defined]


class Odd:
    """A type without a schema."""


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("async def a(context, input: Odd):\n    'x'", "the input of the agent a is of a type without a schema, Odd"),
        ("async def a(context, input: int):\n    'x'", "it must be an object: take a model"),
        ("async def a(context, input: 'Nowhere'):\n    'x'", "name 'Nowhere' is not defined"),
        ("async def a(context, input): pass", "the agent a has no docstring"),
        ("def a(context, input):\n    'x'", "must be an async function of two parameters"),
        ("async def a(context):\n    'x'", "must be an async function of two parameters"),
    ],
)
def test_what_cannot_be_an_agent_is_one_sentence(source: str, sentence: str) -> None:
    found: dict[str, Any] = {"Odd": Odd}
    exec(source, found)
    with pytest.raises(TypeError, match=sentence) as caught:
        carrel.agent(found["a"])
    assert "\n" not in str(caught.value)


async def test_a_wrong_input_is_refused_field_by_field_before_anything_runs(system: System, ada: Person) -> None:
    runs = Runs(system, ada)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await runs.start("kit_adding", {"a": "x", "b": 1})
    assert "input_json.a" in str(refusal.error)
    assert not (await runs.list()).runs
