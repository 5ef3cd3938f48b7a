"""The part of a report that says what to do: what would save money, and what comes next. What a model added is marked as its own."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON
from carrel_agents.document import Block, Heading, Item, Items, Paragraph, Span, Words, code, emphasis, strong
from carrel_agents.formula import said, show

Report = Mapping[str, JSON]


def recommendations(report: Report) -> list[Block]:
    """What would save money, with what is assumed; an assumption is named with the first change that rests on it."""
    if not report["recommendations"]:
        return []
    texts, named = _texts(report, "optimization"), set[str]()
    items = [_recommendation(item, texts, named) for item in report["recommendations"]]
    blocks: list[Block] = [Heading(2, [Span("What would save money")]), Items(items, ordered=True)]
    if texts:
        blocks.append(Paragraph([emphasis("The order, and what is marked so, are the language model's.")]))
    return blocks


def next_actions(report: Report) -> list[Block]:
    """What to do next, in order, and why."""
    texts = _texts(report, "actions")
    items = [
        Item([strong(step["action"]), Span(step["reason"])], _by_model(texts, step["name"]))
        for step in report["next_actions"]
    ]
    return [Heading(2, [Span("What to do next")]), Items(items, ordered=True)] if items else []


def saving(saving: Report) -> str:
    """A saving as a sentence says it."""
    return f"{said(saving['amount'])} {saving['currency']} ({show(saving['percent_of_cost'], 1)} % of the cost)"


def _recommendation(item: Report, texts: Report, named: set[str]) -> Item:
    new = [assumption for assumption in item["assumptions"] if assumption["text"] not in named]
    named.update(assumption["text"] for assumption in new)
    return Item(
        [strong(item["title"]), Span(f"saves up to {saving(item['estimated_saving'])}. {item['why']}")],
        [*_by_model(texts, item["name"]), *map(_assumption, new)],
    )


def _assumption(assumption: Report) -> Words:
    setting = [emphasis("Setting:"), code(assumption["setting"])] if assumption["setting"] else []
    return [emphasis("Assumed:"), Span(assumption["text"]), *setting]


def _texts(report: Report, agent: str) -> Report:
    return report["model"]["texts"].get(agent, {}) if report["model"] else {}


def _by_model(texts: Report, name: str) -> list[Words]:
    return [[emphasis("The model:"), Span(texts[name])]] if texts.get(name) else []
