"""What stands out in the facts of a trace: each finding with the formula behind its number and the rows it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.costs import per_million, priced_groups
from carrel_agents.finding import Finding, finding
from carrel_agents.formula import Formula, said, show, solve, solve_money
from carrel_agents.model_findings import dearest_model, slowest_model

Facts = Mapping[str, JSON]


def find_by_kind(facts: Facts, groups: Sequence[Facts], cost: Facts | None, prices: Facts) -> list[Finding]:
    """What optimization finds: money, the requests that could cost less, and what sets the models apart."""
    return _there(
        _cost(cost),
        dearest_model(cost),
        _input_share(cost),
        _token_ratio(facts),
        _long_prompts(facts),
        _short_requests(facts),
        _repeated(facts, groups, prices),
        _batches(facts),
        slowest_model(facts),
    )


def find_in_time(facts: Facts) -> list[Finding]:
    """What data finds: the load, its changes, latency, and what could not be read."""
    return _there(
        _peak(facts),
        _above_level(facts),
        _trend(facts),
        _unusual_minutes(facts),
        _slow_tail(facts),
        _time_per_token(facts),
        _broken_rows(facts),
    )


def _there(*findings: Finding | None) -> list[Finding]:
    return [each for each in findings if each is not None]


def _cost(cost: Facts | None) -> Finding | None:
    if cost is None:
        return None
    mean = cost["per_thousand_requests"]
    statement = (
        f"{show(cost['requests'])} requests cost {said(cost['amount'])} {cost['currency']}, "
        f"which is {said(mean['amount'])} {cost['currency']} for every 1,000 of them."
    )
    formulas = [Formula(cost["amount"], cost["arithmetic"]), Formula(mean["amount"], mean["arithmetic"])]
    return finding("cost", ["cost", "overview"], "What the trace costs", statement, formulas, cost["requests"])


def _input_share(cost: Facts | None) -> Finding | None:
    if cost is None or cost["input_share"] is None:
        return None
    share = cost["input_share"]
    heavier = "prompts" if share["percent"] >= 50 else "answers"
    statement = (
        f"{show(share['percent'], 1)} % of the cost is paid for input, so the {heavier} are where most money goes."
    )
    formula = Formula(share["percent"], share["arithmetic"])
    return finding(
        "input_share", ["cost"], f"Most of the cost is in the {heavier}", statement, [formula], cost["requests"]
    )


def _token_ratio(facts: Facts) -> Finding | None:
    if facts["input_tokens"] == 0 or facts["output_tokens"] == 0:
        return None
    ratio = solve(f"{show(facts['output_tokens'])} / {show(facts['input_tokens'])}", 3)
    statement = (
        f"There are {show(ratio.value, 3)} output tokens for each input token. The median prompt has "
        f"{show(facts['input_tokens_percentiles']['p50'])} tokens, the median answer "
        f"{show(facts['output_tokens_percentiles']['p50'])}."
    )
    title = "Prompts are longer than answers" if ratio.value < 1 else "Answers are as long as prompts or longer"
    return finding("token_ratio", ["volume", "overview"], title, statement, [ratio], facts["requests"])


def _long_prompts(facts: Facts) -> Finding | None:
    long = facts["long_prompts"]
    if not long["requests"]:
        return None
    of_requests = _percent(long["requests"], facts["requests"])
    of_tokens = solve(
        f"100 × {show(long['tokens'])} / ({show(facts['input_tokens'])} + {show(facts['output_tokens'])})", 1
    )
    statement = (
        f"{show(long['requests'])} prompts ({show(of_requests.value, 1)} %) are longer than "
        f"{show(long['above_input_tokens'])} tokens, the p95; these requests carry {show(of_tokens.value, 1)} % of all tokens."
    )
    return finding(
        "long_prompts", ["volume", "cost"], "The longest prompts", statement, [of_requests, of_tokens], long["requests"]
    )


def _short_requests(facts: Facts) -> Finding | None:
    short = facts["short_requests"]
    if not short["requests"]:
        return None
    share = _percent(short["requests"], facts["requests"])
    statement = (
        f"{show(short['requests'])} requests ({show(share.value, 1)} %) are short: at most "
        f"{show(short['at_most_input_tokens'])} input and {show(short['at_most_output_tokens'])} output tokens."
    )
    return finding("short_requests", ["cost", "volume"], "Short requests", statement, [share], short["requests"])


def _peak(facts: Facts) -> Finding:
    peak, minutes = facts["peak_minute"], facts["load"]["minutes"]
    mean = solve(f"{show(facts['requests'])} / {show(minutes)}", 1)
    ratio = solve(f"{show(peak['requests'])} × {show(minutes)} / {show(facts['requests'])}", 2)
    statement = (
        f"The busiest minute, {peak['minute']}, has {show(peak['requests'])} requests: {show(ratio.value, 2)} times the "
        f"mean of {show(mean.value, 1)} over {show(minutes)} calendar minutes."
    )
    return finding("peak", ["capacity", "overview"], "Peak against mean", statement, [mean, ratio], facts["requests"])


def _above_level(facts: Facts) -> Finding | None:
    load = facts["load"]
    if load["minutes"] < 2:
        return None
    share = _percent(load["requests_above_level"], facts["requests"])
    statement = (
        f"With room for {show(load['level_requests_per_minute'])} requests a minute, the mean rounded up, "
        f"{show(load['requests_above_level'])} requests ({show(share.value, 1)} %) would come above it, in "
        f"{show(load['minutes_above_level'])} of {show(load['minutes'])} minutes."
    )
    return finding("above_level", ["capacity"], "Requests above a level load", statement, [share], facts["requests"])


def _trend(facts: Facts) -> Finding | None:
    """Both halves have the same number of minutes; one in the middle belongs to neither."""
    halves = facts["halves"]
    (before, after), (tokens_before, tokens_after) = halves["requests"], halves["tokens"]
    if not halves["minutes"] or not before or not tokens_before:
        return None
    requests, tokens = _change(before, after), _change(tokens_before, tokens_after)
    statement = (
        f"From the first {show(halves['minutes'])} minutes to the last {show(halves['minutes'])}, requests went from "
        f"{show(before)} to {show(after)} ({show(requests.value, 1)} %) and tokens from {show(tokens_before)} to "
        f"{show(tokens_after)} ({show(tokens.value, 1)} %)."
    )
    return finding("trend", ["capacity", "volume"], "The trend", statement, [requests, tokens], before + after)


def _unusual_minutes(facts: Facts) -> Finding | None:
    unusual = facts["unusual_minutes"]
    if not unusual["minutes"]:
        return None
    q1, q3 = show(unusual["first_quartile"]), show(unusual["third_quartile"])
    fence = solve(f"{q3} + 1.5 × ({q3} - {q1})", 1)
    highest = ", ".join(f"{peak['minute']} with {show(peak['requests'])}" for peak in unusual["highest"])
    statement = (
        f"{show(unusual['minutes'])} minutes have more than {show(fence.value, 1)} requests, which is far above the usual "
        f"{q1} to {q3} (the quartiles of minutes with any); the highest: {highest}."
    )
    return finding("unusual_minutes", ["capacity"], "Unusual minutes", statement, [fence], unusual["requests"])


def _repeated(facts: Facts, groups: Sequence[Facts], prices: Facts) -> Finding | None:
    """An upper bound where the trace has no prompts: requests with the same counts may still differ."""
    repeated = facts["repeated_requests"]
    if not repeated["requests"]:
        return None
    share = _percent(repeated["requests"], facts["requests"])
    used = [(group, name) for group, name in priced_groups(groups, prices) if group["repeated_requests"]]
    cost = (
        solve_money(per_million(_repeated_term(group, prices["models"][name]) for group, name in used))
        if used
        else None
    )
    same = "the same prompt" if repeated["by"] == "prompt" else "the same two counts of tokens"
    bound = "" if repeated["by"] == "prompt" else "at most "
    worth = f" They cost {said(cost.value)} {prices['currency']}." if cost else ""
    statement = (
        f"{bound.capitalize()}{show(repeated['requests'])} requests ({show(share.value, 1)} %) could come from a cache: "
        f"{same} came within {show(repeated['within_seconds'])} seconds before.{worth}"
    )
    formulas = [*([cost] if cost else []), share]
    return finding("repeated", ["cost"], "What a cache could answer", statement, formulas, repeated["requests"])


def _repeated_term(group: Facts, rates: Facts) -> str:
    return (
        f"{show(group['repeated_input'])} × {show(rates['input_per_million'])} + "
        f"{show(group['repeated_output'])} × {show(rates['output_per_million'])}"
    )


def _batches(facts: Facts) -> Finding | None:
    calls, requests = facts["batches"]["calls"], facts["requests"]
    if calls == requests:
        return None
    share = solve(f"100 × ({show(requests)} - {show(calls)}) / {show(requests)}", 1)
    statement = (
        f"With all requests to one model that begin within {show(facts['batches']['within_seconds'])} s sent as one, "
        f"{show(requests)} requests make {show(calls)} calls, {show(share.value, 1)} % fewer."
    )
    return finding("batches", ["cost", "capacity"], "What could be sent together", statement, [share], requests)


def _slow_tail(facts: Facts) -> Finding | None:
    latency = facts.get("latency")
    if not latency or not latency["rows"] or not latency["p50_ms"]:
        return None
    ratio = solve(f"{show(latency['p95_ms'])} / {show(latency['p50_ms'])}", 2)
    statement = (
        f"The median request takes {show(latency['p50_ms'])} ms, the p95 is {show(latency['p95_ms'])} ms, "
        f"{show(ratio.value, 2)} times as long, and the slowest {show(latency['max_ms'])} ms."
    )
    return finding("slow_tail", ["latency", "overview"], "The slow tail", statement, [ratio], latency["rows"])


def _time_per_token(facts: Facts) -> Finding | None:
    latency = facts.get("latency")
    if not latency or not latency["output_tokens"]:
        return None
    mean = solve(f"{show(latency['sum_ms'])} / {show(latency['output_tokens'])}", 2)
    statement = f"{show(mean.value, 2)} ms pass for each output token, the reading of the prompt included."
    return finding("time_per_token", ["latency"], "Time for a token", statement, [mean], latency["rows"])


def _broken_rows(facts: Facts) -> Finding | None:
    if not facts["broken_rows"]:
        return None
    share = _percent(facts["broken_rows"], facts["total_rows"])
    where = ", ".join(f"{column} in {show(rows)}" for column, rows in facts["broken_by_column"].items() if rows)
    statement = (
        f"{show(facts['broken_rows'])} of {show(facts['total_rows'])} rows ({show(share.value, 1)} %) could not be read "
        f"and are left out of every other number here: {where}."
    )
    return finding("broken_rows", ["overview"], "Rows left out", statement, [share], facts["broken_rows"])


def _percent(part: int, whole: int) -> Formula:
    return solve(f"100 × {show(part)} / {show(whole)}", 1)


def _change(before: int, after: int) -> Formula:
    return solve(f"100 × ({show(after)} - {show(before)}) / {show(before)}", 1)
