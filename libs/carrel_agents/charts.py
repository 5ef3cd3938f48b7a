"""Which charts a report has, and what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.document import foreign
from carrel_agents.drawing import WIDTH, Chart, Series, bars, columns
from carrel_agents.formula import said, show
from carrel_agents.scales import Mark, length, spaced, time_marks

Row = Mapping[str, JSON]

_MOST_BARS = 20
_LONGEST_NAME = 36
"""In characters, so that a label fits into the width of a chart."""


def charts_of(report: Row) -> list[Chart]:
    """All charts for which the report has numbers."""
    facts = report["facts"]
    drawn: list[Chart] = []
    if "over_time" in facts:
        drawn += _over_time(facts["over_time"], facts["last_time"])
        drawn += [_sizes(kind, facts["sizes"][kind]) for kind in ("input", "output")]
    if report["cost"] is not None and report["cost"]["amount"]:
        drawn.append(_cost_by_model(report["cost"]))
    return drawn


def _over_time(over_time: Row, last_time: str) -> list[Chart]:
    requests, inputs, outputs = zip(*over_time["buckets"], strict=True)
    minutes = over_time["bucket_minutes"]
    first, last = over_time["first_minute"][:10], last_time[:10]
    days = first if first == last else f"{first} to {last}"
    marks = [
        Mark(mark.place // minutes, mark.label)
        for mark in time_marks(over_time["first_minute"], minutes * len(over_time["buckets"]))
    ]
    tokens = [Series("input", inputs), Series("output", outputs)]
    return [
        columns(
            "requests_over_time", f"Requests in each {length(minutes)}", [Series("requests", requests)], marks, days
        ),
        columns("tokens_over_time", f"Tokens in each {length(minutes)}", tokens, marks, days),
    ]


def _sizes(kind: str, sizes: Sequence[Row]) -> Chart:
    """From the smallest class with a request to the largest."""
    counts = {size["from"]: size["requests"] for size in sizes}
    starts = [0, *(2**power for power in range(max(counts).bit_length()))]
    starts = [start for start in starts if start >= min(counts)]
    labels = [show(start) for start in starts]
    every = spaced(labels, WIDTH / len(labels))
    marks = [Mark(place, label) for place, label in enumerate(labels) if place % every == 0]
    values = [counts.get(start, 0) for start in starts]
    axis = f"{kind} tokens of a request, from the number under a bar to below that of the next"
    return columns(f"{kind}_tokens", f"Requests by {kind} tokens", [Series("requests", values)], marks, axis)


def _cost_by_model(cost: Row) -> Chart:
    models = sorted(cost["by_model"], key=lambda each: -each["amount"])[:_MOST_BARS]
    parts = [Series(kind, [each[kind]["amount"] for each in models]) for kind in ("input", "output")]
    whole = f"Cost by model, {cost['currency']}"
    title = whole if len(models) == len(cost["by_model"]) else f"{whole}: the {len(models)} that cost most"
    return bars("cost_by_model", title, [_model_label(each, cost["currency"]) for each in models], parts)


def _model_label(model: Row, currency: str) -> str:
    name = f"not named, priced as {model['priced_as']}" if model["model"] is None else model["model"]
    parts = " and ".join(f"{said(model[kind]['amount'])} for {kind}" for kind in ("input", "output"))
    return f"{foreign(name, _LONGEST_NAME).text}: {said(model['amount'])} {currency}, {parts}"
