"""The last part of a report: every formula with the rows it rests on, and what was decided and assumed on the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from carrel.agent import JSON
from carrel_agents.document import Block, Heading, Item, Items, Paragraph, Span, Words, code, foreign, strong
from carrel_agents.formula import show

Report = Mapping[str, JSON]


def workings(report: Report) -> list[Block]:
    """How each number of the report came about."""
    formulas = [*_formulas(report)]
    arithmetic: list[Block] = [Paragraph([Span("The arithmetic, and the rows that it rests on:")]), Items(formulas)]
    return [
        Heading(2, [Span("How this was computed")]),
        Items([Item([Span(sentence)]) for sentence in [*_decisions(report), *_prices(report), _model(report)]]),
        *(arithmetic if formulas else []),
    ]


def _decisions(report: Report) -> Iterator[str]:
    triage = report["triage"]
    yield f"{triage['rule']} Confidence {show(triage['confidence'])}."
    yield f"The data is {triage['sufficiency']} for that; at work were {', '.join(report['agents'])}."
    yield "Percentiles are by nearest rank: p95 is a value of the trace that 95 % of the requests do not exceed."


def _prices(report: Report) -> Iterator[str]:
    cost, prices = report["cost"], report["prices"]
    if cost is None:
        return
    used = {price["model"]: price for item in [cost, *report["recommendations"]] for price in item["prices"]}
    for price in used.values():
        yield (
            f"Price of {price['model']} ({prices['label']}), per million tokens: "
            f"{show(price['input_per_million'])} {prices['currency']} input, "
            f"{show(price['output_per_million'])} {prices['currency']} output."
        )
    if cost["uses_assumed_model"]:
        yield f"Requests whose model is not named are priced as {prices['assumed_model']} (setting prices.assumed_model)."


def _model(report: Report) -> str:
    """What part a language model had in the report."""
    model = report["model"]
    if model is None:
        return "No language model was asked: every sentence here is made from the computed facts."
    if not model["failures"]:
        return "A language model wrote what is marked as its own; it computed nothing."
    # One that does not answer is not asked again, so the agents often have the same to say.
    why = " ".join(dict.fromkeys(failure["message"] for failure in model["failures"]))
    agents = ", ".join(failure["agent"] for failure in model["failures"])
    return f"The language model added nothing for {agents}, where the computed facts stand alone: {why}"


def _formulas(report: Report) -> Iterator[Item]:
    for finding in report["findings"]:
        yield _item(f"{finding['title']}:", finding["arithmetic"], finding["rows"])
    for model in (report["cost"] or {}).get("by_model", ()):
        formulas = [model["arithmetic"], model["input"]["arithmetic"], model["output"]["arithmetic"]]
        name = "requests without a model" if model["model"] is None else model["model"]
        yield _item(
            f"Cost of {foreign(name, 60).text}, that of its input and of its output:",
            "; ".join(formulas),
            model["requests"],
        )
    for each in report["recommendations"]:
        formulas = [each["estimated_saving"]["arithmetic"], each.get("why_arithmetic", "")]
        yield _item(f"{each['title']}:", "; ".join(formulas), each["rows"])
    if together := report["savings_together"]:
        yield _item("All savings together; no token is counted twice:", together["arithmetic"])
    for goal in report["goals"]:
        if goal["arithmetic"]:
            yield _item("A goal:", goal["arithmetic"])


def _item(title: str, arithmetic: str, rows: int | None = None) -> Item:
    words: Words = [strong(title), *([Span(f"{show(rows)} rows")] if rows is not None else [])]
    return Item(words, [[code(formula)] for formula in arithmetic.split("; ") if formula])
