"""What a user wants to reach, as numbers: read from the words of a question, and held against what was computed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from carrel.agent import JSON
from carrel_agents.formula import money, said, show, solve

Row = Mapping[str, JSON]
Goal = dict[str, JSON]

_NUMBER = r"(?P<number>\d[\d,]*(?:\.\d+)?)"
_WITHIN = r"(?:below|under|at most|less than|within|to|of)"
PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (metric, re.compile(pattern, re.IGNORECASE))
    for metric, pattern in (
        ("cost_percent", rf"\b(?:costs?|bill|spending|money|save|cheaper)\b[^.?!\d]*?\bby\s+{_NUMBER}\s*(?:%|percent)"),
        ("cost_percent", rf"\bsave\s+{_NUMBER}\s*(?:%|percent)"),
        (
            "cost_amount",
            rf"\b(?:costs?|bill|spending)\b[^.?!\d]*?\b{_WITHIN}\s+\$?{_NUMBER}(?!\s*(?:%|percent|[\d.,]*\d))",
        ),
        (
            "latency_p95_ms",
            rf"\b(?:latency|p95)\b[^.?!\d]*?\b{_WITHIN}\s+{_NUMBER}\s*(?P<unit>ms|s|seconds?|milliseconds?)\b",
        ),
        ("requests_per_minute", rf"\b{_NUMBER}\s+requests?\s+(?:a|per)\s+minute\b"),
    )
)
"""The forms in which goals are recognized. What they do not cover is not guessed at."""


def read_goals(question: str) -> list[Goal]:
    """The goals that a question states, in their order: {metric, target, text}; what stands first matters most."""
    found = [
        (match.start(), {"metric": metric, "target": _target(match), "text": match[0]})
        for metric, pattern in PATTERNS
        for match in pattern.finditer(question)
    ]
    return [goal for _, goal in sorted(found, key=lambda each: each[0])]


def judge(goal: Goal, facts: Row, cost: Row | None, savings: Row | None) -> dict[str, JSON]:
    """The goal with `reached` (None where it cannot be said), the reason in a sentence, and its arithmetic."""
    reached, why, arithmetic = _JUDGES[goal["metric"]](goal["target"], facts, cost, savings)
    return {**goal, "reached": reached, "why": why, "arithmetic": arithmetic}


_Judgement = tuple[bool | None, str, str]


def _cost_percent(target: float, facts: Row, cost: Row | None, savings: Row | None) -> _Judgement:
    if cost is None or savings is None:
        return None, "No saving was computed.", ""
    share = solve(f"100 × {money(savings['amount'])} / {money(cost['amount'])}", 1)
    why = f"What was found saves up to {show(share.value, 1)} % of the cost; {show(target)} % are asked for."
    return share.value >= target, why, share.text


def _cost_amount(target: float, facts: Row, cost: Row | None, savings: Row | None) -> _Judgement:
    if cost is None:
        return None, "No cost was computed.", ""
    left = solve(f"{money(cost['amount'])} - {money(savings['amount'] if savings else 0)}", 4)
    why = f"With all that was found it would cost {said(left.value)} {cost['currency']}; {show(target)} are asked for."
    return left.value <= target, why, left.text


def _latency(target: float, facts: Row, cost: Row | None, savings: Row | None) -> _Judgement:
    latency = facts.get("latency")
    if not latency or not latency["rows"]:
        return None, "The trace does not say how long requests took.", ""
    return latency["p95_ms"] <= target, f"The p95 is {show(latency['p95_ms'])} ms; {show(target)} ms are asked for.", ""


def _load(target: float, facts: Row, cost: Row | None, savings: Row | None) -> _Judgement:
    if "peak_minute" not in facts:
        return None, "The load over time was not computed.", ""
    peak = facts["peak_minute"]["requests"]
    return peak <= target, f"The busiest minute has {show(peak)} requests; {show(target)} are asked for.", ""


_JUDGES = {
    "cost_percent": _cost_percent,
    "cost_amount": _cost_amount,
    "latency_p95_ms": _latency,
    "requests_per_minute": _load,
}


def _target(match: re.Match[str]) -> float:
    number = float(match["number"].replace(",", ""))
    in_seconds = match.groupdict().get("unit", "").lower().startswith("s")
    return number * 1000 if in_seconds else number
