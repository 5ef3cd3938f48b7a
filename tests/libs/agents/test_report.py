"""What a report says is what was computed: formulas come out, no number is from elsewhere, and money adds up."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from importlib.resources import as_file
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.libs.agents.conftest import Ask

from carrel_agents.document import Heading, foreign
from carrel_agents.examples import example_trace
from carrel_agents.formula import solve, solve_money
from carrel_agents.markdown import markdown
from carrel_agents.prices import EXAMPLE_PRICES

Write = Callable[..., Path]

QUESTIONS = ["What does it cost?", "How slow is it?", "When is the peak?", "How many tokens?", "Hello"]
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w-])")
TIMES = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+")


@pytest.fixture(params=["example", "real", "broken"])
def trace(request: pytest.FixtureRequest, write: Write) -> Iterator[Path]:
    """A trace with models and latency, the real one, and one with rows and models of every trouble."""
    match request.param:
        case "example":
            with as_file(example_trace()) as path:
                yield path
        case "real":
            yield request.getfixturevalue("real_trace")
        case _:
            yield write(
                "TIMESTAMP,ContextTokens,GeneratedTokens,Model,LatencyMs",
                "2023-11-16 18:15:46,600,200,EXAMPLE-LARGE,20",
                "2023-11-16 18:15:47,100,20,<b>unknown|*model*,x",
                "2023-11-16 18:25:48,50,10,,5.25",
                "2023-11-16 18:26:48,5000,900,example-small ,7",
                "never,1,1,example-small,7",
            )


def formulas(report: Any) -> Iterator[str]:
    """Every formula of a report, wherever it is."""
    match report:
        case dict():
            for name, value in report.items():
                if name.endswith("arithmetic"):
                    yield from value.split("; ")
                else:
                    yield from formulas(value)
        case list():
            for value in report:
                yield from formulas(value)


def value_of(expression: str) -> Fraction:
    """The value of an expression, by Python's own arithmetic on exact fractions."""
    source = expression.replace(",", "").replace("×", "*")
    assert re.fullmatch(r"[\d.+*/() -]+", source), expression
    return Fraction(eval(re.sub(r"[\d.]+", lambda number: f"F('{number[0]}')", source), {"F": Fraction}))


def comes_out(formula: str) -> bool:
    expression, claimed = formula.split(" = ")
    stated = Decimal(claimed.replace(",", ""))
    half_unit = Fraction(1, 2) * Fraction(Decimal(1).scaleb(int(stated.as_tuple().exponent)))
    return abs(value_of(expression) - Fraction(stated)) <= half_unit


def numbers_in(value: Any) -> Iterator[Decimal]:
    """The numbers of a report: its values, and those in its formulas."""
    match value:
        case bool() | None:
            return
        case int() | float():
            yield Decimal(str(value))
        case dict():
            for name, inner in value.items():
                if name.endswith("arithmetic"):
                    yield from numbers_of_text(inner)
                else:
                    yield from numbers_in(inner)
        case list():
            for inner in value:
                yield from numbers_in(inner)


def in_cents(numbers: set[Decimal]) -> set[Decimal]:
    """Amounts of money as sentences say them."""
    return {number.quantize(Decimal("0.01"), ROUND_HALF_UP) for number in numbers if number >= 1}


def amounts_in(value: Any) -> Iterator[Decimal]:
    """The amounts of money of a report, those in its formulas too."""
    match value:
        case dict():
            for name, inner in value.items():
                if name == "amount":
                    yield Decimal(str(inner))
                elif name == "arithmetic":
                    yield from (Decimal(each.split(" = ")[1].replace(",", "")) for each in inner.split("; ") if each)
                else:
                    yield from amounts_in(inner)
        case list():
            for inner in value:
                yield from amounts_in(inner)


def times_in(value: Any) -> Iterator[str]:
    """The times among the facts."""
    match value:
        case str() if TIMES.match(value):
            yield value
        case dict():
            for each in value.values():
                yield from times_in(each)
        case list():
            for each in value:
                yield from times_in(each)


def numbers_of_text(text: str) -> Iterator[Decimal]:
    for number in NUMBER.findall(text):
        yield Decimal(number.rstrip(",").replace(",", ""))


@pytest.mark.parametrize("question", QUESTIONS)
async def test_every_formula_comes_out_and_every_number_of_the_text_was_computed(
    ask: Ask, trace: Path, question: str
) -> None:
    report = await ask(trace, question)
    found = list(formulas(report))
    assert len(found) > 8
    assert [formula for formula in found if not comes_out(formula)] == []
    text = report.pop("markdown")
    del report["html"], report["charts"]
    times = set(times_in(report["facts"]))
    assert {time.rstrip(",;.:") for time in TIMES.findall(text)} <= times
    known = (
        set(numbers_in(report)) | in_cents(set(amounts_in(report))) | {Decimal(95)}
    )  # "95 % of the requests" explains what p95 means
    listed = {Decimal(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)}
    body = TIMES.sub("", re.sub(r"^\d+\. ", "", text, flags=re.MULTILINE))
    assert [number for number in numbers_of_text(body) if number not in known] == []
    assert listed <= set(map(Decimal, range(1, 20)))


async def test_every_number_in_a_statement_is_a_fact_or_in_a_formula(ask: Ask, trace: Path) -> None:
    report = await ask(trace)
    known = set(numbers_in([report["facts"], report["cost"]]))
    known |= in_cents(set(amounts_in([report["cost"], report["findings"]])))
    for finding in report["findings"]:
        stated = set(numbers_of_text(TIMES.sub("", finding["statement"])))
        assert stated <= known | set(numbers_of_text(finding["arithmetic"])), finding


async def test_the_cost_is_the_facts_times_the_prices(ask: Ask, real_trace: Path) -> None:
    cost = (await ask(real_trace))["cost"]
    assert cost["amount"] == pytest.approx((22_361_870 * 3 + 4_088_665 * 12) / 1e6, abs=0.005)
    assert cost["requests"] == 19_366


async def test_each_model_is_priced_as_itself(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path)
    rates = EXAMPLE_PRICES["models"]
    expected = {
        m["model"]: m["input_tokens"] * rates[m["model"]]["input_per_million"] / 1e6
        + m["output_tokens"] * rates[m["model"]]["output_per_million"] / 1e6
        for m in report["facts"]["by_model"]
    }
    assert {m["model"]: m["amount"] for m in report["cost"]["by_model"]} == pytest.approx(expected, abs=1e-4)
    assert report["cost"]["amount"] == pytest.approx(sum(expected.values()), abs=1e-4)


async def test_savings_are_ordered_cited_and_below_the_cost(ask: Ask, trace: Path) -> None:
    report = await ask(trace)
    amounts = [item["estimated_saving"]["amount"] for item in report["recommendations"]]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts and sum(amounts) < report["cost"]["amount"]
    assert (report["savings_together"] is None) == (len(amounts) < 2)
    if report["savings_together"]:
        assert report["savings_together"]["amount"] == pytest.approx(sum(amounts), abs=1e-4)
    for item in report["recommendations"]:
        assert item["why"] and item["assumptions"] and item["estimated_saving"]["currency"] == "USD"
        assert all(price["label"] == EXAMPLE_PRICES["label"] for price in item["prices"])


async def test_the_saving_of_the_smaller_model_is_the_difference_of_both_costs(
    ask: Ask, real_trace: Path, real_lines: list[str]
) -> None:
    rows = [line.split(",") for line in real_lines[1:]]
    short = [(int(i), int(o)) for _, i, o in rows if int(i) <= 512 and int(o) <= 128]
    large, small = (sum(i * a + o * b for i, o in short) / 1e6 for a, b in ((3, 12), (0.2, 0.8)))
    report = await ask(real_trace)
    saving = next(item for item in report["recommendations"] if item["name"] == "smaller_model")
    assert saving["estimated_saving"]["amount"] == pytest.approx(large - small, abs=1e-4)
    assert saving["rows"] == len(short)


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("What does it cost?", "cost"),
        ("How slow is it?", "slow_tail"),
        ("When is the peak?", "peak"),
        ("How many tokens?", "token_ratio"),
    ],
)
async def test_what_bears_on_the_question_comes_first(ask: Ask, question: str, first: str) -> None:
    with as_file(example_trace()) as path:
        report = await ask(path, question)
    assert report["findings"][0]["name"] == first
    assert report["triage"]["rule"] in report["markdown"]


async def test_a_question_for_a_model_is_answered_with_its_name_first(ask: Ask) -> None:
    with as_file(example_trace()) as path:
        slow, dear = await ask(path, "Which model is slow?"), await ask(path, "Which model costs most?")
        rows = [*csv.DictReader(path.read_text().splitlines())]
    p95, cost = {}, {}
    for model, rates in EXAMPLE_PRICES["models"].items():
        own = [row for row in rows if row["Model"] == model]
        times = sorted(float(row["LatencyMs"]) for row in own)
        p95[model] = times[-(-len(times) * 95 // 100) - 1]
        tokens = {kind: sum(int(row[kind]) for row in own) for kind in ("ContextTokens", "GeneratedTokens")}
        cost[model] = tokens["ContextTokens"] * rates["input_per_million"]
        cost[model] += tokens["GeneratedTokens"] * rates["output_per_million"]
    slowest, dearest = max(p95, key=p95.__getitem__), max(cost, key=cost.__getitem__)
    assert f"**In short.** {slowest} is the slowest: its p95 is {p95[slowest]:,.0f} ms" in slow["markdown"]
    assert f"**In short.** {dearest} costs most: {cost[dearest] / 1e6:.2f} USD" in dear["markdown"]
    values = {each["name"]: each["value"] for each in slow["findings"]}
    assert values["slowest_model"] == round(p95[slowest] / min(p95.values()), 2)
    assert values["dearest_model"] == pytest.approx(100 * cost[dearest] / sum(cost.values()), abs=0.05)


async def test_one_model_is_not_compared_with_itself(ask: Ask, write: Write) -> None:
    header = "TIMESTAMP,ContextTokens,GeneratedTokens,Model,LatencyMs"
    report = await ask(write(header, "2023-11-16 18:15:46,10,2,example-large,5"), "Which model is slow?")
    assert not {"slowest_model", "dearest_model"} & {each["name"] for each in report["findings"]}
    assert "**In short.** The median request takes 5 ms" in report["markdown"]


async def test_a_question_that_the_trace_cannot_answer_is_said_to_be_so(ask: Ask, write: Write) -> None:
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46,10,2")
    report = await ask(path, "Why is it so slow?")
    assert report["missing"][0]["needed"] == "A column LatencyMs."
    assert "cannot say how long" in report["markdown"]
    assert "latency" not in report["facts"]
    assert report["next_actions"][0]["action"] == "Record Model and LatencyMs with each request."


async def test_a_model_without_a_price_is_not_priced(ask: Ask, write: Write) -> None:
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens,Model", "2023-11-16 18:15:46,10,2,who")
    report = await ask(path)
    assert report["cost"] is None and report["recommendations"] == []
    assert "no model in it has a price" in report["missing"][0]["what"]


async def test_other_prices_and_assumptions_are_taken_from_the_settings(ask: Ask, write: Write) -> None:
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens", *["2023-11-16 18:15:46,1000,1000"] * 1_000)
    rates = {"input_per_million": 10, "output_per_million": 20}
    prices = {**EXAMPLE_PRICES, "currency": "EUR", "label": "ours", "models": {"a": rates, "b": rates}}
    given_settings = {
        "prices": {**prices, "assumed_model": "a", "smaller_model": "b"},
        "assumptions": {"short_input_tokens": 1000, "short_output_tokens": 1000},
    }
    report = await ask(path, settings=given_settings)
    assert (report["cost"]["amount"], report["cost"]["currency"]) == (30, "EUR")
    assert report["facts"]["short_requests"]["requests"] == 1_000
    assert report["recommendations"] == []
    assert "example" not in report["markdown"]


async def test_what_a_user_wrote_does_not_become_markup(ask: Ask, write: Write) -> None:
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens,Model", "2023-11-16 18:15:46,10,2,<img src=x>|[a](b)")
    report = await ask(path, "# <script>alert(1)</script>\n\n[cost](http://x) `a`")
    assert report["question"].startswith("# <script>")
    for markup in ("<script", "<img", "[a](b)", "](http://x)", "\n[cost"):
        assert markup not in report["markdown"]


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=400))
def test_plain_text_is_one_line_without_tags(text: str) -> None:
    shown = markdown([Heading(1, [foreign(text)])])
    assert "<" not in shown and len(shown.splitlines()) <= 1


AMOUNTS = st.decimals(0, 10**6, places=3)


@settings(deadline=None)
@given(AMOUNTS, AMOUNTS, st.integers(1, 10**6), st.integers(0, 4))
def test_a_formula_comes_out_whatever_its_numbers(a: Decimal, b: Decimal, c: int, places: int) -> None:
    expression = f"({a:,f} × {c:,} - {b:,f}) / {c:,} + 0.5"
    for formula in (solve(expression, places), solve_money(expression)):
        assert comes_out(formula.text)
        assert Fraction(formula.text.split(" = ")[1].replace(",", "")) == Fraction(str(formula.value))
