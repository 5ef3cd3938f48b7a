"""A model orders what was computed and says how to do it: it changes no number, and what it cannot say leaves the plain report."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from importlib.resources import as_file
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.libs.agents.conftest import Ask
from tests.libs.agents.test_narrative import given_to
from tests.support.agents import Record

from carrel_agents.examples import example_trace

Write = Callable[..., Path]
Answer = Callable[..., Any]

BY_SAVING = ["smaller_model", "trim_prompts", "limit_answers"]
COMPUTED = ("facts", "cost", "findings", "savings_together", "goals", "missing")


@pytest_asyncio.fixture
async def answer(ask: Ask, record: Record) -> AsyncIterator[Answer]:
    """The report on the example, when the model writes so for each agent."""
    with as_file(example_trace()) as path:

        async def with_model(**written: str) -> Any:
            record.written |= written
            return await ask(path)

        yield with_model


def names(report: Any) -> list[str]:
    return [each["name"] for each in report["recommendations"]]


async def test_the_model_puts_the_changes_in_order_and_changes_nothing_of_them(answer: Answer) -> None:
    plain = await answer()
    report = await answer(optimization="limit_answers: It is safe.\nsmaller_model: Try it on a sample.")
    assert names(plain) == BY_SAVING and names(report) == ["limit_answers", "smaller_model", "trim_prompts"]
    assert sorted(report["recommendations"], key=lambda each: BY_SAVING.index(each["name"])) == plain["recommendations"]
    assert [report[name] for name in COMPUTED] == [plain[name] for name in COMPUTED]
    steps = [each["name"] for each in report["next_actions"]]
    assert [name for name in steps if name in BY_SAVING] == names(report)
    assert "*The model:* It is safe." in report["markdown"] and "<em>The model:</em> It is safe." in report["html"]


async def test_the_largest_saving_is_called_so_wherever_the_model_puts_it(answer: Answer) -> None:
    report = await answer(optimization="limit_answers: First.")
    (said,) = re.findall(r"The largest saving found is .*? cost\): (.*?)\.", report["markdown"])
    assert said == "answer short requests with example-small"


async def test_the_model_says_how_to_do_each_step(answer: Answer, record: Record) -> None:
    report = await answer(actions="set_prices: Ask your vendor for the invoice.\nsmaller_model: Take one day.")
    assert report["model"]["texts"]["actions"] == {
        "set_prices": "Ask your vendor for the invoice.",
        "smaller_model": "Take one day.",
    }
    assert names(report) == BY_SAVING, "the steps follow from what was computed"
    first = report["next_actions"][0]
    step = report["markdown"].split("1. **Put the prices")[1].split("\n2. ")[0]
    assert first["reason"] in step and step.endswith("*The model:* Ask your vendor for the invoice.")
    given = given_to("actions", record)
    assert given["recommendations"] == report["recommendations"] and given["next_actions"] == report["next_actions"]


@pytest.mark.parametrize("agent", ["optimization", "actions"])
async def test_a_number_that_was_not_computed_is_removed_with_its_sentence(answer: Answer, agent: str) -> None:
    wrong = "It saves 4,711 USD."
    report = await answer(**{agent: f"smaller_model: Begin with a sample. {wrong}\ntrim_prompts: {wrong}"})
    assert report["model"]["texts"][agent] == {"smaller_model": "Begin with a sample.", "trim_prompts": ""}
    assert report["model"]["removed"] == [wrong, wrong]
    for text in (report["markdown"], report["html"]):
        assert "4,711" not in text and "had a number that was not computed" in text and "Begin with a sample." in text


@pytest.mark.parametrize(
    "line",
    [
        "smaller_model: Try it.",
        "1. smaller_model: Try it.",
        "- **smaller_model**: Try it.",
        "2) **smaller_model:** Try it.",
        "`smaller_model`: Try it.",
    ],
)
async def test_a_model_may_number_and_embolden_its_lines(answer: Answer, line: str) -> None:
    report = await answer(optimization=f"Here you are:\n\n{line}\nsmaller_model: Again.\nother: No.")
    assert report["model"]["texts"] == {"optimization": {"smaller_model": "Try it."}}


async def test_an_answer_in_another_form_is_not_used_and_that_is_said(answer: Answer) -> None:
    report = await answer(optimization="I would begin with the prompts.")
    assert names(report) == BY_SAVING and report["model"]["texts"] == {}
    failures = {each["agent"]: each["reason"] for each in report["model"]["failures"]}
    assert failures == {
        "optimization": "MODEL_ANSWER_UNUSABLE",
        "actions": "MODEL_REFUSED",
        "reporting": "MODEL_REFUSED",
    }
    said = (
        "added nothing for optimization, actions, reporting, where the computed facts stand alone: The model's answer"
    )
    assert said in report["markdown"]


async def test_a_model_that_does_not_answer_is_not_waited_for_again(answer: Answer, record: Record) -> None:
    plain = await answer()
    report = await answer(optimization="", actions="set_prices: Yes.", reporting="Yes.")
    assert [agent for agent, _ in record.of_kind("model")] == ["optimization"]
    assert [each["agent"] for each in report["model"]["failures"]] == ["optimization", "actions", "reporting"]
    assert "The model does not answer." in report["markdown"] and report["failures"] == []
    without = {"model", "markdown", "html"}
    assert {name: value for name, value in report.items() if name not in without} == {
        name: value for name, value in plain.items() if name not in without
    }


async def test_without_a_model_the_report_says_that_none_was_asked(answer: Answer) -> None:
    report = await answer()
    assert report["model"] is None and "No language model was asked" in report["markdown"]


async def test_where_nothing_can_be_saved_no_model_is_asked_for_an_order(
    ask: Ask, write: Write, record: Record
) -> None:
    record.written["reporting"] = "Fine."
    report = await ask(write("TIMESTAMP,ContextTokens,GeneratedTokens,Model", "2023-11-16 18:15:46,10,2,who"))
    assert [agent for agent, _ in record.of_kind("model")] == ["actions", "reporting"]
    assert report["recommendations"] == []


async def test_what_a_model_writes_of_a_step_does_not_act(answer: Answer) -> None:
    report = await answer(
        optimization="smaller_model: <script>alert()</script> [click](http://x) **bold**",
        actions="set_prices: See www.example.com or http://example.com now.",
    )
    assert "<script" not in report["markdown"] + report["html"] and "[click](" not in report["markdown"]
    assert "**bold**" not in report["markdown"]
    assert not re.search(r"https?://|www\.", report["markdown"]), "addresses become links by themselves in some readers"
