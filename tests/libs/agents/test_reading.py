"""What is read from the words of a question: goals, times, the columns that it needs, and nothing that is not there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from carrel_agents.goals import judge, read_goals
from carrel_agents.questions import category, wanted_columns
from carrel_agents.time_range import find_time_range
from carrel_agents.values import TimeRange


@pytest.mark.parametrize(
    ("question", "goals"),
    [
        ("Cut the cost by 30 %", [("cost_percent", 30.0)]),
        ("Save 12.5 percent!", [("cost_percent", 12.5)]),
        ("Keep the bill under $1,250.50.", [("cost_amount", 1250.5)]),
        ("p95 below 2 s", [("latency_p95_ms", 2000.0)]),
        ("latency of at most 800 ms", [("latency_p95_ms", 800.0)]),
        (
            "handle 500 requests per minute, then lower costs by 5%",
            [("requests_per_minute", 500.0), ("cost_percent", 5.0)],
        ),
        ("What does it cost?", []),
        ("What did it cost on 2023-11-16?", []),
        ("Is it slow? The cost is high.", []),
    ],
)
def test_goals_are_read_as_numbers_in_their_order(question: str, goals: list[tuple[str, float]]) -> None:
    assert [(goal["metric"], goal["target"]) for goal in read_goals(question)] == goals
    assert category(question) == ("goals" if goals else "analysis")


@given(st.text(max_size=200))
def test_any_question_can_be_read(question: str) -> None:
    assert all(goal["target"] >= 0 for goal in read_goals(question))
    assert category(question) in ("analysis", "goals", "administration")
    find_time_range(question)


COST = {"amount": 100.0, "currency": "USD"}
FACTS: dict[str, Any] = {"latency": {"rows": 3, "p95_ms": 900.0}, "peak_minute": {"requests": 500}}


@pytest.mark.parametrize(
    ("metric", "target", "reached"),
    [
        ("cost_percent", 10, True),
        ("cost_percent", 10.1, False),
        ("cost_amount", 90, True),
        ("cost_amount", 89.99, False),
        ("latency_p95_ms", 900, True),
        ("latency_p95_ms", 899, False),
        ("requests_per_minute", 500, True),
        ("requests_per_minute", 499, False),
    ],
)
def test_a_goal_is_held_against_what_was_computed(metric: str, target: float, reached: bool) -> None:
    goal = {"metric": metric, "target": target, "text": "x"}
    assert judge(goal, FACTS, COST, {"amount": 10.0})["reached"] is reached
    unknown = judge(goal, {}, None, None)
    assert unknown["reached"] is None and unknown["why"]


@pytest.mark.parametrize(
    ("question", "begin", "end"),
    [
        ("on 2023-11-16?", "2023-11-16T00:00:00", "2023-11-17T00:00:00"),
        ("2023-11-16 18:20", "2023-11-16T18:20:00", "2023-11-16T18:21:00"),
        ("2023-11-16T18:20:05Z", "2023-11-16T18:20:05", "2023-11-16T18:20:06"),
        ("2023-11-16T18:20+02:00", "2023-11-16T16:20:00", "2023-11-16T16:21:00"),
        ("from 2023-11-17 back to 2023-11-16 12:00", "2023-11-16T12:00:00", "2023-11-18T00:00:00"),
    ],
)
def test_a_moment_lasts_as_long_as_it_is_exact(question: str, begin: str, end: str) -> None:
    found, times = find_time_range(question)
    assert found is not None and (found.begin, found.end) == (begin, end) and times


@pytest.mark.parametrize(
    "question", ["yesterday", "2023-13-40", "2023-11-16x", "1969-01-01", "v2023-11-16", "2023-11-16 25:00"[11:], ""]
)
def test_nothing_else_is_taken_for_a_time(question: str) -> None:
    assert find_time_range(question) == (None, ())


@pytest.mark.parametrize(
    "moment", ["2023-11-16", "2023-11-16T00:00:00' OR true --", "2023-11-16T00:00:00\n", "٢٠٢٣-11-16T00:00:00"]
)
def test_nothing_but_a_moment_can_get_into_a_statement(moment: str) -> None:
    with pytest.raises(ValidationError):
        TimeRange(begin=moment, end="2023-11-17T00:00:00")


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Delete the corpus trace", "administration"),
        ("please rename my file", "administration"),
        ("Which prompts could we remove from the trace?", "analysis"),
    ],
)
def test_only_a_command_is_administration(question: str, kind: str) -> None:
    assert category(question) == kind


def test_some_questions_need_optional_columns() -> None:
    assert wanted_columns("Which model is slow?", "latency") == ["LatencyMs", "Model"]
    assert wanted_columns("cost of the smaller model", "cost") == []
