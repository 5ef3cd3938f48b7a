"""What could be changed to pay less: each recommendation with its saving, the arithmetic and the prices behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.costs import per_million, priced_groups
from carrel_agents.formula import Formula, join, money, show, solve, solve_money
from carrel_agents.prices import entry

Row = Mapping[str, JSON]
Recommendation = dict[str, JSON]


def recommend(facts: Row, groups: Sequence[Row], cost: Row | None, prices: Row) -> list[Recommendation]:
    """The recommendations that would save something, the greatest saving first."""
    if cost is None:
        return []
    priced = priced_groups(groups, prices)
    candidates = [
        _smaller_model(facts, priced, cost, prices),
        _trim_prompts(facts, priced, cost, prices),
        _limit_answers(facts, priced, cost, prices),
    ]
    found = [candidate for candidate in candidates if candidate is not None]
    return sorted(found, key=lambda recommendation: -recommendation["estimated_saving"]["amount"])


def together(recommendations: Sequence[Recommendation], cost: Row | None) -> dict[str, JSON] | None:
    """The sum of the savings, which may be added because no token is counted in two; None below two of them."""
    if cost is None or len(recommendations) < 2:
        return None
    amounts = [money(recommendation["estimated_saving"]["amount"]) for recommendation in recommendations]
    return _saving(solve_money(join(amounts)), cost)


def _smaller_model(facts: Row, priced: Sequence[tuple[Row, str]], cost: Row, prices: Row) -> Recommendation | None:
    models, smaller = prices["models"], prices["smaller_model"]
    cheap = models[smaller]

    def term(group: Row, name: str) -> str:
        rates = models[name]
        return (
            f"{show(group['short_input'])} × ({show(rates['input_per_million'])} - {show(cheap['input_per_million'])}) + "
            f"{show(group['short_output'])} × ({show(rates['output_per_million'])} - {show(cheap['output_per_million'])})"
        )

    used = [
        (group, name)
        for group, name in priced
        if name != smaller and group["short_requests"] and _is_cheaper(cheap, models[name])
    ]
    saved = _money_of(used, term)
    if saved is None:
        return None
    short, rows = facts["short_requests"], sum(group["short_requests"] for group, _ in used)
    share = solve(f"100 × {show(rows)} / {show(facts['requests'])}", 1)
    return {
        "name": "smaller_model",
        "title": f"Answer short requests with {smaller}",
        "why": f"{show(rows)} requests ({show(share.value, 1)} %) have at most {show(short['at_most_input_tokens'])} input "
        f"and {show(short['at_most_output_tokens'])} output tokens and are priced at a more expensive model.",
        "why_arithmetic": share.text,
        "rows": rows,
        "estimated_saving": _saving(saved, cost),
        "prices": _entries(prices, [*(name for _, name in used), smaller]),
        "assumptions": [
            _assumed(
                f"{smaller} answers these requests well enough; a trace does not show quality, so try it on a sample.",
                "prices.smaller_model",
            ),
            _assumed(
                f"Short means at most {show(short['at_most_input_tokens'])} input and "
                f"{show(short['at_most_output_tokens'])} output tokens.",
                "assumptions.short_input_tokens, assumptions.short_output_tokens",
            ),
            *_assumed_model(cost),
        ],
    }


def _trim_prompts(facts: Row, priced: Sequence[tuple[Row, str]], cost: Row, prices: Row) -> Recommendation | None:
    used = [(group, name) for group, name in priced if group["excess_input"]]
    saved = _money_of(used, _excess("excess_input", "input_per_million", prices))
    if saved is None:
        return None
    limit, rows = show(facts["long_prompts"]["above_input_tokens"]), sum(group["long_prompts"] for group, _ in used)
    return {
        "name": "trim_prompts",
        "title": f"Trim prompts to {limit} tokens",
        "why": f"{show(rows)} prompts are longer than {limit} tokens, the p95, by "
        f"{show(sum(group['excess_input'] for group, _ in used))} tokens in all.",
        "rows": rows,
        "estimated_saving": _saving(saved, cost),
        "prices": _entries(prices, [name for _, name in used]),
        "assumptions": [
            _assumed("What is cut from a long prompt is not needed for its answer; a trace does not show it.", None),
            *_assumed_model(cost),
        ],
    }


def _limit_answers(facts: Row, priced: Sequence[tuple[Row, str]], cost: Row, prices: Row) -> Recommendation | None:
    used = [(group, name) for group, name in priced if group["excess_output"]]
    saved = _money_of(used, _excess("excess_output", "output_per_million", prices))
    if saved is None:
        return None
    limit, rows = show(facts["long_answers"]["above_output_tokens"]), sum(group["long_answers"] for group, _ in used)
    return {
        "name": "limit_answers",
        "title": f"Limit answers to {limit} tokens",
        "why": f"{show(rows)} answers are longer than {limit} tokens, the p95, by "
        f"{show(sum(group['excess_output'] for group, _ in used))} tokens in all.",
        "rows": rows,
        "estimated_saving": _saving(saved, cost),
        "prices": _entries(prices, [name for _, name in used]),
        "assumptions": [
            _assumed("Answers can be asked to be shorter; a plain limit would cut them in the middle.", None),
            *_assumed_model(cost),
        ],
    }


def _excess(tokens: str, rate: str, prices: Row) -> Callable[[Row, str], str]:
    return lambda group, name: f"{show(group[tokens])} × {show(prices['models'][name][rate])}"


def _money_of(used: Sequence[tuple[Row, str]], term: Callable[[Row, str], str]) -> Formula | None:
    """The saving as a formula; None where nothing is saved."""
    saved = solve_money(per_million(term(group, name) for group, name in used)) if used else None
    return saved if saved is not None and saved.value > 0 else None


def _is_cheaper(cheap: Row, rates: Row) -> bool:
    return all(cheap[rate] <= rates[rate] for rate in rates)


def _saving(saved: Formula, cost: Row) -> dict[str, JSON]:
    share = solve(f"100 × {money(saved.value)} / {money(cost['amount'])}", 1)
    return {
        "amount": saved.value,
        "currency": cost["currency"],
        "percent_of_cost": share.value,
        "arithmetic": f"{saved.text}; {share.text}",
    }


def _entries(prices: Row, names: Sequence[str]) -> list[JSON]:
    return [entry(prices, name) for name in dict.fromkeys(names)]


def _assumed(text: str, setting: str | None) -> dict[str, JSON]:
    return {"text": text, "setting": setting}


def _assumed_model(cost: Row) -> list[JSON]:
    if not cost["uses_assumed_model"]:
        return []
    text = f"Requests whose model the trace does not name went to {cost['assumed_model']}."
    return [_assumed(text, "prices.assumed_model")]
