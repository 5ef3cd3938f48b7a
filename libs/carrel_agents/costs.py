"""What a trace costs by a price table, and what part of it would cost otherwise: text that computes itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.formula import join, money, show, solve, solve_money
from carrel_agents.prices import entry, find_model

Row = Mapping[str, JSON]


def priced_groups(groups: Sequence[Row], prices: Row) -> list[tuple[Row, str]]:
    """The groups of a trace that the table prices, each with the name of its entry."""
    found = [(group, find_model(prices, group["model"])) for group in groups]
    return [(group, name) for group, name in found if name is not None]


def trace_cost(groups: Sequence[Row], prices: Row) -> dict[str, JSON] | None:
    """The cost of every request that the table prices; None where it prices none of the models in the trace."""
    priced = priced_groups(groups, prices)
    if not priced:
        return None
    requests = sum(group["requests"] for group, _ in priced)
    total = solve_money(per_million(_whole(group, prices["models"][name]) for group, name in priced))
    mean = solve_money(f"1,000 × {money(total.value)} / {show(requests)}")
    return {
        "amount": total.value,
        "currency": prices["currency"],
        "arithmetic": total.text,
        "requests": requests,
        "unpriced_requests": sum(group["requests"] for group in groups) - requests,
        "per_thousand_requests": {"amount": mean.value, "arithmetic": mean.text},
        "by_model": [_of_model(group, name, prices) for group, name in priced],
        "input_share": _input_share(priced, prices, total.value),
        "uses_assumed_model": any(group["model"] is None for group, _ in priced),
        "assumed_model": prices["assumed_model"],
        "prices": [entry(prices, name) for name in dict.fromkeys(name for _, name in priced)],
    }


def per_million(terms: Iterable[str]) -> str:
    """The formula of a sum of tokens × rates, the rates being per million tokens."""
    return f"({join(terms)}) / 1,000,000"


def _of_model(group: Row, name: str, prices: Row) -> dict[str, JSON]:
    rates = prices["models"][name]
    cost = solve_money(per_million([_whole(group, rates)]))
    return {
        "model": group["model"],
        "priced_as": name,
        "requests": group["requests"],
        "amount": cost.value,
        "arithmetic": cost.text,
        **{kind: _of_kind(kind, group, rates) for kind in ("input", "output")},
    }


def _of_kind(kind: str, group: Row, rates: Row) -> dict[str, JSON]:
    """What a model's tokens of one kind cost."""
    cost = solve_money(per_million([f"{show(group[f'{kind}_tokens'])} × {show(rates[f'{kind}_per_million'])}"]))
    return {"amount": cost.value, "arithmetic": cost.text}


def _input_share(priced: Sequence[tuple[Row, str]], prices: Row, total: float) -> dict[str, JSON] | None:
    """The part of the cost that is paid for input, in percent."""
    if total == 0:
        return None
    terms = (f"{show(g['input_tokens'])} × {show(prices['models'][n]['input_per_million'])}" for g, n in priced)
    cost = solve_money(per_million(terms))
    share = solve(f"100 × {money(cost.value)} / {money(total)}", 1)
    return {"amount": cost.value, "percent": share.value, "arithmetic": f"{cost.text}; {share.text}"}


def _whole(group: Row, rates: Row) -> str:
    return (
        f"{show(group['input_tokens'])} × {show(rates['input_per_million'])} + "
        f"{show(group['output_tokens'])} × {show(rates['output_per_million'])}"
    )
