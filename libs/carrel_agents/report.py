"""The readable version of a report, as a document. It computes nothing: every number in it is one of the report's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.document import (
    Block,
    Figure,
    Heading,
    Item,
    Items,
    Paragraph,
    Quote,
    Span,
    code,
    emphasis,
    foreign,
    strong,
)
from carrel_agents.drawing import Chart
from carrel_agents.formula import show
from carrel_agents.questions import BY_MODEL
from carrel_agents.steps import next_actions, recommendations, saving
from carrel_agents.tables import models, numbers
from carrel_agents.workings import workings

Report = Mapping[str, JSON]


def document(report: Report, charts: Sequence[Chart]) -> list[Block]:
    """All of it, a section for each part that has something to say."""
    savings, findings = recommendations(report), _findings(report)
    about_money = report["triage"]["intent"] in ("cost", "overview")
    return [
        *_head(report),
        *_answer(report),
        *_written(report),
        *_goals(report["goals"]),
        *([*savings, *findings] if about_money else [*findings, *savings]),
        *next_actions(report),
        *(Figure(chart) for chart in charts),
        *numbers(report["facts"]),
        *models(report),
        *_missing(report),
        *workings(report),
    ]


def title(report: Report) -> str:
    """The title of the report."""
    return f"Usage report: {foreign(report['corpus']).text}"


def _head(report: Report) -> list[Block]:
    return [
        Heading(1, [Span("Usage report:"), foreign(report["corpus"])]),
        Quote([foreign(report["question"])]),
    ]


def _answer(report: Report) -> list[Block]:
    """The finding that answers the question, and what could be saved, before anything else."""
    return [Paragraph([strong("In short."), Span(" ".join(_sentences(report)))]), *_cautions(report)]


def _sentences(report: Report) -> list[str]:
    answers: dict[str, Callable[[Report], list[str | None]]] = {
        "cost": _cost_answer,
        "latency": _latency_answer,
        "capacity": lambda report: [_statement(report, "peak"), _statement(report, "above_level")],
        "volume": lambda report: [_volume(report), _statement(report, "token_ratio")],
        "overview": lambda report: [_volume(report), *_cost_answer(report), _statement(report, "peak")],
    }
    return [sentence for sentence in answers[report["triage"]["intent"]](report) if sentence] or [_volume(report)]


def _cautions(report: Report) -> list[Block]:
    facts, notes = report["facts"], []
    if facts["broken_rows"]:
        rows = f"{show(facts['broken_rows'])} of {show(facts['total_rows'])} rows"
        notes.append(f"{rows} could not be read and are left out.")
    if time_range := report["triage"].get("time_range"):
        outside = show(facts.get("rows_outside_the_time_range", 0))
        notes.append(
            f"Only requests from {time_range['begin']} and before {time_range['end']} are counted; {outside} are outside."
        )
    if removed := [*(report["model"] or {}).get("removed", ()), *(report["narrative"] or {}).get("removed", ())]:
        what = "A sentence of the language model" if len(removed) == 1 else "Sentences of the language model"
        notes.append(
            f"{what} had a number that was not computed, and {'was' if len(removed) == 1 else 'were'} removed."
        )
    if report["failures"]:
        failed = ", ".join(failure["agent"] for failure in report["failures"])
        notes.append(f"This report is incomplete, because these could not do their work: {failed}.")
    return [Paragraph([strong("Note:"), Span(note)]) for note in notes]


def _statement(report: Report, name: str) -> str | None:
    return next((finding["statement"] for finding in report["findings"] if finding["name"] == name), None)


def _volume(report: Report) -> str:
    facts = report["facts"]
    return (
        f"{show(facts['requests'])} requests with {show(facts['input_tokens'])} input tokens and "
        f"{show(facts['output_tokens'])} output tokens."
    )


def _cost_answer(report: Report) -> list[str | None]:
    cost, changes = report["cost"], report["recommendations"]
    if report["prices"] is None:
        return ["The cost was not computed."]
    if cost is None:
        return ["The cost cannot be said: no model in this trace has a price."]
    sentences: list[str | None] = [
        *_of_models(report, "dearest_model"),
        _statement(report, "cost"),
        f"The prices: {cost['prices'][0]['label']}.",
    ]
    if not changes:
        return [*sentences, "Nothing that was computed would save money."]
    best = max(changes, key=lambda change: change["estimated_saving"]["amount"])
    sentences.append(f"The largest saving found is {saving(best['estimated_saving'])}: {_lower(best['title'])}.")
    if report["savings_together"]:
        sentences.append(f"All that was found, together: {saving(report['savings_together'])}.")
    return sentences


def _latency_answer(report: Report) -> list[str | None]:
    if _statement(report, "slow_tail"):
        names = ("slow_tail", "time_per_token")
        return [*_of_models(report, "slowest_model"), *(_statement(report, name) for name in names)]
    return ["This trace cannot say how long requests took: it has no readable times in a column LatencyMs."]


def _of_models(report: Report, name: str) -> list[str | None]:
    """What answers a question for a model."""
    return [_statement(report, name)] if BY_MODEL.search(report["question"]) else []


def _written(report: Report) -> list[Block]:
    """What the model has written, without the sentences whose numbers nobody computed."""
    narrative = report["narrative"]
    if narrative is None:
        return []
    paragraphs = [Paragraph([Span(paragraph)]) for paragraph in narrative["text"].split("\n\n") if paragraph]
    return [Heading(2, [Span("In the language model's words")]), *paragraphs] if paragraphs else []


def _goals(goals: Sequence[Report]) -> list[Block]:
    if not goals:
        return []
    words = {True: "within reach", False: "out of reach", None: "cannot be said"}
    items = [
        Item([strong(f"{words[goal['reached']]}:"), foreign(goal["text"]), Span(f"— {goal['why']}")]) for goal in goals
    ]
    return [Heading(2, [Span("What is to be reached")]), Items(items)]


def _findings(report: Report) -> list[Block]:
    """Those that the answer has not said already."""
    said_already = _sentences(report)
    items = [
        Item([strong(f"{finding['title']}."), Span(finding["statement"])])
        for finding in report["findings"]
        if finding["statement"] not in said_already
    ]
    return [Heading(2, [Span("Findings")]), Items(items)] if items else []


def _missing(report: Report) -> list[Block]:
    items = [Item([Span(gap["what"]), emphasis("Needed:"), Span(gap["needed"])]) for gap in report["missing"]]
    blocks: list[Block] = [Heading(2, [Span("What this report cannot say")]), Items(items)]
    if report["record"]:
        header = ",".join(report["record"])
        blocks.append(Paragraph([Span("A trace with this header would answer the question:"), code(header)]))
    return blocks


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
