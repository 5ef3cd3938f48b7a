"""What to do next and why, in order: first what an answer lacks, then what saves or helps most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.formula import said, show
from carrel_agents.prices import EXAMPLE_PRICES
from carrel_agents.savings import Recommendation
from carrel_agents.values import TriageResult

Row = Mapping[str, JSON]
Action = dict[str, JSON]

FIRST_STEPS = {
    "smaller_model": "Send a sample of the short requests to {smaller} beside the present model and compare the answers.",
    "trim_prompts": "Look at some of the longest prompts and see what in them is not needed, such as old turns.",
    "limit_answers": "Ask for shorter answers where they are longest, and set a limit on output tokens.",
}


def next_actions(
    triage: TriageResult, facts: Row, recommendations: Sequence[Recommendation], cost: Row | None, prices: Row
) -> list[Action]:
    """The steps in their order: {order, name, action, reason}."""
    savings = [_try(recommendation, prices) for recommendation in recommendations]
    capacity = [_plan_capacity(facts)] if "load" in facts else []
    asked_capacity, asked_latency = (triage.intent == topic for topic in ("capacity", "latency"))
    record = _record_more(triage)
    steps = [
        *(record if asked_latency else []),
        *_set_prices(cost, prices),
        *(capacity + savings if asked_capacity else savings + capacity),
        *([] if asked_latency else record),
        *_mend_rows(facts),
    ]
    return [{"order": order, **step} for order, step in enumerate(steps, 1)]


def _step(name: str, action: str, reason: str) -> Action:
    return {"name": name, "action": action, "reason": reason}


def _set_prices(cost: Row | None, prices: Row) -> list[Action]:
    if prices == EXAMPLE_PRICES:
        reason = "Every amount of money here rests on example prices, not those of any vendor."
        return [_step("set_prices", 'Put the prices that you pay into the setting "prices" and ask again.', reason)]
    if cost is None or cost["unpriced_requests"]:
        reason = "Requests of models without a price are in no amount of money here."
        return [_step("add_prices", 'Add the missing models to the setting "prices" and ask again.', reason)]
    return []


def _try(recommendation: Recommendation, prices: Row) -> Action:
    saving = recommendation["estimated_saving"]
    return _step(
        recommendation["name"],
        FIRST_STEPS[recommendation["name"]].format(smaller=prices["smaller_model"]),
        f"It saves up to {said(saving['amount'])} {saving['currency']}, "
        f"{show(saving['percent_of_cost'], 1)} % of the cost.",
    )


def _plan_capacity(facts: Row) -> Action:
    peak, load = facts["peak_minute"], facts["load"]
    return _step(
        "plan_capacity",
        f"Plan for {show(peak['requests'])} requests a minute, or let requests that can wait do so.",
        f"That is the busiest minute, {peak['minute']}; with room for {show(load['level_requests_per_minute'])} a minute, "
        f"{show(load['requests_above_level'])} requests would come above it.",
    )


def _record_more(triage: TriageResult) -> list[Action]:
    use = {"Model": "each request is then priced as what it was", "LatencyMs": "only then can speed be reported"}
    absent = [column for column in use if column in triage.absent_columns]
    if not absent:
        return []
    reason = "; ".join(use[column] for column in absent)
    return [
        _step(
            "record_columns", f"Record {' and '.join(absent)} with each request.", reason[0].upper() + reason[1:] + "."
        )
    ]


def _mend_rows(facts: Row) -> list[Action]:
    if not facts["broken_rows"]:
        return []
    return [
        _step(
            "mend_trace",
            "Mend what writes the trace.",
            f"{show(facts['broken_rows'])} of {show(facts['total_rows'])} rows could not be read.",
        )
    ]
