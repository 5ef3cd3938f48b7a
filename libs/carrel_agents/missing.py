"""What a trace cannot answer, and which data would be needed for it."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON
from carrel_agents.values import Failure, TriageResult

Row = Mapping[str, JSON]

WORK = {
    "goals_triage": "What is to be reached",
    "data": "How the load lies in time, its peaks and its trend",
    "optimization": "What the trace costs and what a change would save",
    "actions": "What to do next",
    "data_helper": "What should be recorded for a better answer",
}
"""What a report lacks without an agent's result."""


def what_is_missing(triage: TriageResult, cost: Row | None, *, optimized: bool) -> list[dict[str, JSON]]:
    """Each gap as {what, needed}; what bears on the question first. Unless `optimized`, no cost was computed at all."""
    facts = triage.facts
    gaps = [*_columns(triage), *_latency(facts), *(_prices(cost) if optimized else []), *_zone(facts), *_always(triage)]
    gaps.sort(key=lambda gap: triage.intent not in gap["topics"])
    return [{"what": gap["what"], "needed": gap["needed"]} for gap in gaps]


def _gap(what: str, needed: str, *topics: str) -> dict[str, JSON]:
    return {"what": what, "needed": needed, "topics": topics}


def without_result(failure: Failure) -> dict[str, JSON]:
    """The gap that an agent leaves which could not do its work."""
    return {
        "what": f"{WORK[failure.agent]}: {failure.agent} failed.",
        "needed": f"{failure.message} [{failure.reason}]",
    }


def _columns(triage: TriageResult) -> list[dict[str, JSON]]:
    gaps = {
        "Model": _gap("Which model answered a request.", "A column Model.", "cost"),
        "LatencyMs": _gap("How long requests took, and which were slow.", "A column LatencyMs.", "latency"),
    }
    return [gaps[column] for column in triage.absent_columns if column in gaps]


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


def _always(triage: TriageResult) -> list[dict[str, JSON]]:
    """What no trace of this form shows, and what a reader would otherwise expect to be considered."""
    return [
        _gap(
            "Whether another model would answer as well.", "Answers of both models to the same sample, judged.", "cost"
        ),
        *(
            [
                _gap(
                    "Which prompts repeat; those with the same counts of tokens may differ.",
                    "A column PromptHash.",
                    "cost",
                )
            ]
            if "PromptHash" in triage.absent_columns
            else []
        ),
        _gap("Which requests could wait for a batch.", "A mark on requests that nobody waits for.", "cost", "capacity"),
    ]
