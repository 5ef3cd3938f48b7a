"""Which agents answer which question, what is asked of the user, and what becomes of a report when one of them fails."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file
from pathlib import Path
from typing import Any

import pytest
from tests.libs.agents.conftest import Ask
from tests.support.agents import Corpora, LocalRun, Record

from carrel.agent import AgentError, ToolError
from carrel_agents import Reporting
from carrel_agents.examples import example_trace
from carrel_agents.workflows import WORKFLOWS, OnFailure

Write = Callable[..., Path]

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROW = "2023-11-16 18:15:46,374,44"
SUFFICIENT = ["triage", "optimization", "data", "actions", "reporting"]
PARTIAL = ["triage", "optimization", "actions", "data_helper", "reporting"]
DEFAULT = ["triage", "data", "optimization", "actions", "reporting"]


@pytest.mark.parametrize(
    ("question", "sufficiency", "agents"),
    [
        ("What does it cost?", "sufficient", SUFFICIENT),
        ("When is the peak?", "sufficient", SUFFICIENT),
        ("How slow is it?", "partial", PARTIAL),
        ("Which model costs most?", "partial", PARTIAL),
        ("Hello there", "unknown", DEFAULT),
        ("Does the price of tokens wait for the peak?", "unknown", DEFAULT),
    ],
)
async def test_the_question_and_the_columns_choose_the_workflow(
    ask: Ask, write: Write, record: Record, question: str, sufficiency: str, agents: list[str]
) -> None:
    report = await ask(write(HEADER, ROW), question)
    assert record.agents == ["supervisor", *agents]
    assert report["triage"]["sufficiency"] == sufficiency
    assert report["agents"] == sorted(agents[:-1], key=["triage", *DEFAULT[1:-1], "data_helper"].index)
    assert report["failures"] == []


async def test_with_all_columns_the_same_questions_are_answered_in_full(ask: Ask, record: Record) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path, "Which model is slow?")
    assert record.agents == ["supervisor", *SUFFICIENT]
    assert report["facts"]["latency"]["rows"] == 500 and report["record"] == []


async def test_partial_data_is_answered_as_far_as_it_goes_and_the_rest_is_named(ask: Ask, write: Write) -> None:
    report = await ask(write(HEADER, ROW), "How slow is it?")
    assert report["missing"][0] == {
        "what": "How long requests took, and which were slow.",
        "needed": "A column LatencyMs.",
    }
    assert report["record"] == ["TIMESTAMP", "ContextTokens", "GeneratedTokens", "Model", "LatencyMs", "PromptHash"]
    assert ",".join(report["record"]) in report["markdown"]
    assert report["cost"]["amount"] > 0 and "peak_minute" not in report["facts"]


async def test_columns_of_other_names_are_asked_for_and_the_answer_is_used(
    ask: Ask, write: Write, record: Record
) -> None:
    record.answers.append({"time": "when", "output": "answer"})
    report = await ask(write("when,ContextTokens,answer,note", "2023-11-16 18:15:46,374,44,x"))
    assert record.agents == ["supervisor", "triage", "data_helper", *SUFFICIENT]
    ((agent, asked),) = record.of_kind("wait")
    assert agent == "data_helper" and asked["schema"]["required"] == ["time", "output"]
    assert asked["schema"]["properties"]["time"] == {"enum": ["when", "answer", "note"]}
    assert "the time of a request" in asked["prompt"] and "TIMESTAMP" in asked["prompt"]
    assert (report["facts"]["input_tokens"], report["facts"]["output_tokens"]) == (374, 44)
    assert report["triage"]["columns"]["time"] == "when"


async def test_a_question_without_a_corpus_is_asked_which(write: Write, record: Record) -> None:
    corpora = Corpora({"one": write(HEADER, ROW), "two": write(HEADER, ROW)})
    record.answers.append({"corpus": "two"})
    report = await LocalRun("supervisor", corpora, record=record).start({"question": "What does it cost?"})
    corpora.close()
    ((_, asked),) = record.of_kind("wait")
    assert asked["schema"]["properties"] == {"corpus": {"enum": ["one", "two"]}}
    assert report["corpus"] == "two" and report["facts"]["requests"] == 1


async def test_who_has_no_corpus_is_asked_for_one(record: Record) -> None:
    corpora = Corpora({})
    with pytest.raises(AgentError) as caught:
        await LocalRun("supervisor", corpora, record=record).start({"question": "What does it cost?"})
    corpora.close()
    assert caught.value.reason == "WAIT_EXPIRED" and "You have none yet" in record.of_kind("wait")[0][1]["prompt"]


async def test_two_roles_for_one_column_are_asked_about_again_and_given_up(
    ask: Ask, write: Write, record: Record
) -> None:
    """The trace has enough columns; the answers never name one that is left for the second role."""
    record.answers += [{"time": "a", "output": "a"}] * 4
    with pytest.raises(AgentError) as caught:
        await ask(write("a,b,ContextTokens", "2023-11-16 18:15:46,1,2"))
    assert caught.value.reason in ("TRACE_UNREADABLE", "DATA_INSUFFICIENT")


class Refusing(Corpora):
    """A tool that fails for the statements in which a word occurs."""

    def __init__(self, path: Path, word: str) -> None:
        super().__init__({"trace": path})
        self.word = word

    def query(self, sql: str) -> Any:
        if self.word in sql:
            raise ToolError("SQL_MEMORY", "Select less.")
        return super().query(sql)


@pytest.mark.parametrize(
    ("word", "failed", "gone", "there"),
    [
        ("AS peak_minute", ["data"], "peak_minute", "by_kind"),
        ("AS long_prompts", ["optimization", "actions"], "long_prompts", "peak_minute"),
    ],
)
async def test_an_agent_that_fails_is_missing_from_the_report_which_says_so(
    write: Write, record: Record, word: str, failed: list[str], gone: str, there: str
) -> None:
    corpora = Refusing(write(HEADER, ROW), word)
    asked = {"question": "What does it cost?", "corpus": "trace"}
    report = await LocalRun("supervisor", corpora, record=record).start(asked)
    corpora.close()
    assert [failure["agent"] for failure in report["failures"]] == failed
    assert report["failures"][0]["reason"] == "SQL_MEMORY" and report["failures"][0]["message"] == "Select less."
    assert gone not in report["facts"] and report["facts"]["requests"] == 1
    assert [gap["what"].split(": ")[1].split()[0] for gap in report["missing"][: len(failed)]] == failed
    for text in (report["markdown"], report["html"]):
        assert "This report is incomplete" in text and ", ".join(failed) in text
    assert "reporting" in record.agents and ("actions" in record.agents) == ("optimization" not in failed)


async def test_when_triage_fails_nothing_goes_on(write: Write, record: Record) -> None:
    corpora = Refusing(write(HEADER, ROW), "AS total_rows")
    with pytest.raises(ToolError):
        await LocalRun("supervisor", corpora, record=record).start({"question": "cost?", "corpus": "trace"})
    corpora.close()
    assert record.agents == ["supervisor", "triage"]


def test_every_workflow_ends_with_the_report_and_that_alone_must_not_fail() -> None:
    for steps in WORKFLOWS.values():
        assert steps[-1].agent is Reporting
        assert [step.agent for step in steps if step.on_failure is OnFailure.STOP] == [Reporting]


async def test_goals_are_read_first_and_held_against_what_was_computed(ask: Ask, write: Write, record: Record) -> None:
    report = await ask(write(HEADER, *[ROW] * 50), "Cut the cost by 99 % and handle 100 requests per minute")
    assert record.agents == ["supervisor", "triage", "goals_triage", *SUFFICIENT[1:]]
    assert [(goal["metric"], goal["reached"]) for goal in report["goals"]] == [
        ("cost_percent", False),
        ("requests_per_minute", True),
    ]
    assert "out of reach" in report["markdown"] and "within reach" in report["html"]


async def test_what_is_to_be_deleted_is_not_analysed(ask: Ask, write: Write) -> None:
    with pytest.raises(AgentError, match="corpus_admin") as caught:
        await ask(write(HEADER, ROW), "Delete the corpus trace")
    assert caught.value.reason == "ADMINISTRATION_ASKED"


async def test_a_time_in_which_nothing_was_asked(ask: Ask, write: Write) -> None:
    with pytest.raises(AgentError) as caught:
        await ask(write(HEADER, ROW), "What did it cost on 2024-01-01?")
    assert caught.value.reason == "TRACE_OUTSIDE_TIME_RANGE"


async def test_models_and_times_in_a_question_are_named(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path, "What does Example-Small cost on 2025-01-15?")
    assert report["triage"]["entities"] == {"models": ["example-small"], "times": ["2025-01-15"]}
