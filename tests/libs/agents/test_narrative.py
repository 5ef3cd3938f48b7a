"""What a model writes into a report: over the computed facts, and without the numbers that it made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.libs.agents.conftest import Ask
from tests.support.agents import Record

Write = Callable[..., Path]

TRACE = ("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46,374,44", "2023-11-16 18:15:47,376,46")


def given_to(agent: str, record: Record) -> dict[str, Any]:
    """The facts that the model was given for an agent, beside the question."""
    (request,) = (request for asked, request in record.of_kind("model") if asked == agent)
    prompt: str = request["messages"][0]["parts"][0]["content"]
    assert "What does it cost?" in prompt
    given: dict[str, Any] = json.loads(prompt.split("as JSON: ")[1])
    return given


async def test_without_a_model_there_is_no_narrative_and_nothing_else_is_missing(ask: Ask, write: Write) -> None:
    report = await ask(write(*TRACE))
    assert report["narrative"] is None and "language model's words" not in report["markdown"]


async def test_what_a_model_writes_stands_in_both_versions_and_the_facts_stay_the_same(
    ask: Ask, write: Write, record: Record
) -> None:
    plain = await ask(write(*TRACE))
    record.written["reporting"] = "There are 2 requests with 750 input tokens. That is little."
    report = await ask(write(*TRACE))
    assert report["narrative"] == {
        "text": "There are 2 requests with 750 input tokens. That is little.",
        "removed": [],
    }
    assert "750 input tokens. That is little." in report["markdown"] and "That is little." in report["html"]
    assert {name: report[name] for name in ("facts", "cost", "findings")} == {
        name: plain[name] for name in ("facts", "cost", "findings")
    }


async def test_a_number_that_was_not_computed_is_removed_with_its_sentence_and_that_is_said(
    ask: Ask, write: Write, record: Record
) -> None:
    record.written["reporting"] = "There are 2 requests. You will save 4,711 USD!\n\nAsk again."
    report = await ask(write(*TRACE))
    assert report["narrative"] == {
        "text": "There are 2 requests.\n\nAsk again.",
        "removed": ["You will save 4,711 USD!"],
    }
    for text in (report["markdown"], report["html"]):
        assert "4,711" not in text and "had a number that was not computed" in text


async def test_a_number_of_the_question_is_no_fact(ask: Ask, write: Write, record: Record) -> None:
    record.written["reporting"] = "It costs 4711 USD. So it is."
    report = await ask(write(*TRACE), "Does it cost 4711 USD?")
    assert report["narrative"] == {"text": "So it is.", "removed": ["It costs 4711 USD."]}


async def test_a_text_without_end_is_cut_between_words(ask: Ask, write: Write, record: Record) -> None:
    record.written["reporting"] = "There are 750 input tokens. " * 1000
    report = await ask(write(*TRACE))
    assert 5000 < len(report["narrative"]["text"]) <= 6000
    assert report["narrative"]["removed"] == []


async def test_the_model_is_given_the_facts_and_the_question(ask: Ask, write: Write, record: Record) -> None:
    record.written["reporting"] = "Yes."
    report = await ask(write(*TRACE))
    given = given_to("reporting", record)
    assert given["facts"] == report["facts"] and given["cost"] == report["cost"]


async def test_what_a_model_writes_does_not_become_markup(ask: Ask, write: Write, record: Record) -> None:
    record.written["reporting"] = "<script>alert()</script> [click](http://x) **bold**"
    report = await ask(write(*TRACE))
    assert "<script" not in report["markdown"] + report["html"]
    assert "[click](" not in report["markdown"] and "**bold**" not in report["markdown"]


async def test_a_model_that_does_not_answer_leaves_the_report_as_it_is(ask: Ask, write: Write, record: Record) -> None:
    record.written["reporting"] = ""
    report = await ask(write(*TRACE))
    assert report["narrative"] is None and report["cost"]["amount"] > 0
    assert any("without a model" in text for _, text in record.of_kind("thinking"))


async def test_a_model_says_what_a_question_is_about_of_which_the_words_do_not(
    ask: Ask, write: Write, record: Record
) -> None:
    record.written |= {"triage": "Cost.", "reporting": "Fine."}
    report = await ask(write(*TRACE), "Wofür geben wir so viel aus?")
    assert (report["triage"]["intent"], report["triage"]["sufficiency"]) == ("cost", "sufficient")
    assert "By the language model, the question" in report["markdown"]


async def test_a_model_that_says_something_else_is_not_listened_to(ask: Ask, write: Write, record: Record) -> None:
    record.written |= {"triage": "drop table", "reporting": "Fine."}
    report = await ask(write(*TRACE), "Hello")
    assert (report["triage"]["intent"], report["triage"]["sufficiency"]) == ("overview", "unknown")


async def test_a_model_is_not_asked_what_the_words_say(ask: Ask, write: Write, record: Record) -> None:
    record.written["reporting"] = "Fine."
    await ask(write(*TRACE), "What does it cost?")
    assert [agent for agent, _ in record.of_kind("model")] == ["optimization", "actions", "reporting"]
