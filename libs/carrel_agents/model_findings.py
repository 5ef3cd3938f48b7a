"""What stands out between the models of a trace: which costs most, and which is slow."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON
from carrel_agents.document import foreign
from carrel_agents.finding import Finding, finding
from carrel_agents.formula import money, said, show, solve

Facts = Mapping[str, JSON]


def dearest_model(cost: Facts | None) -> Finding | None:
    """The model that most of the cost is paid for, where there are several."""
    if cost is None or not cost["amount"] or len(cost["by_model"]) < 2:
        return None
    most = max(cost["by_model"], key=lambda each: each["amount"])
    share = solve(f"100 × {money(most['amount'])} / {money(cost['amount'])}", 1)
    statement = (
        f"{_name(most)} costs most: {said(most['amount'])} {cost['currency']}, {show(share.value, 1)} % of the cost."
    )
    return finding(
        "dearest_model", ["models", "cost"], "The model that costs most", statement, [share], most["requests"]
    )


def slowest_model(facts: Facts) -> Finding | None:
    """The model with the highest p95 of latency, against the one with the lowest, where there are several."""
    timed = [model for model in facts.get("by_model", ()) if model.get("latency_ms", {}).get("p95")]
    if len(timed) < 2:
        return None
    slowest, fastest = (choose(timed, key=lambda each: each["latency_ms"]["p95"]) for choose in (max, min))
    slow, fast = slowest["latency_ms"], fastest["latency_ms"]
    ratio = solve(f"{show(slow['p95'])} / {show(fast['p95'])}", 2)
    statement = (
        f"{_name(slowest)} is the slowest: its p95 is {show(slow['p95'])} ms, {show(ratio.value, 2)} times that of "
        f"{_name(fastest)}, {show(fast['p95'])} ms."
    )
    rows = slow["rows"] + fast["rows"]
    return finding("slowest_model", ["models", "latency"], "The slowest model", statement, [ratio], rows)


def _name(model: Facts) -> str:
    return "A model that is not named" if model["model"] is None else foreign(model["model"], 60).text
