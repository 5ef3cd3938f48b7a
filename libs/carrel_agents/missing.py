"""What a trace cannot answer, and which data would be needed for it."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON

Row = Mapping[str, JSON]


def what_is_missing(triage: Row, facts: Row, cost: Row | None) -> list[dict[str, JSON]]:
    """Each gap as {what, needed}; what bears on the question first."""
    gaps = [*_columns(triage), *_latency(facts), *_prices(cost), *_zone(facts), *_always()]
    gaps.sort(key=lambda gap: triage["intent"] not in gap["topics"])
    return [{"what": gap["what"], "needed": gap["needed"]} for gap in gaps]


def _gap(what: str, needed: str, *topics: str) -> dict[str, JSON]:
    return {"what": what, "needed": needed, "topics": topics}


def _columns(triage: Row) -> list[dict[str, JSON]]:
    gaps = {
        "Model": _gap("Which model answered a request.", "A column Model.", "cost"),
        "LatencyMs": _gap("How long requests took, and which were slow.", "A column LatencyMs.", "latency"),
    }
    return [gaps[column] for column in triage["absent_columns"]]


def _latency(facts: Row) -> list[dict[str, JSON]]:
    latency = facts.get("latency")
    if not latency or not latency["unreadable_rows"]:
        return []
    what = f"How long {latency['unreadable_rows']:,} of the requests took."
    return [_gap(what, "A number of milliseconds in LatencyMs in every row.", "latency")]


def _prices(cost: Row | None) -> list[dict[str, JSON]]:
    needed = 'An entry for each model of the trace in the setting "prices".'
    if cost is None:
        return [_gap("What the trace costs: no model in it has a price.", needed, "cost")]
    if cost["unpriced_requests"]:
        what = f"What {cost['unpriced_requests']:,} of the requests cost: their models have no price."
        return [_gap(what, needed, "cost")]
    return []


def _zone(facts: Row) -> list[dict[str, JSON]]:
    if facts["time_zone"] == "unknown":
        return [_gap("The time zone of the times.", "Times with a zone, such as Z at the end.", "capacity")]
    if facts["time_zone"] == "mixed":
        what = "The time zone of some of the times; these are taken as UTC here."
        return [_gap(what, "A zone with every time.", "capacity")]
    return []


def _always() -> list[dict[str, JSON]]:
    """What no trace of this form shows, and what a reader would otherwise expect to be considered."""
    return [
        _gap(
            "Whether another model would answer as well.", "Answers of both models to the same sample, judged.", "cost"
        ),
        _gap(
            "Which prompts repeat, and so could be cached.",
            "A hash of each prompt, or of its constant beginning.",
            "cost",
        ),
        _gap("Which requests could wait for a batch.", "A mark on requests that nobody waits for.", "cost", "capacity"),
    ]
