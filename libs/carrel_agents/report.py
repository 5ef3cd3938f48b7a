"""The readable version of a report, as a document. It computes nothing: every number in it is one of the report's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.charts import Chart
from carrel_agents.document import (
    Block,
    Figure,
    Heading,
    Item,
    Items,
    Paragraph,
    Quote,
    Span,
    Table,
    Words,
    code,
    emphasis,
    foreign,
    strong,
)
from carrel_agents.formula import money, show

Report = Mapping[str, JSON]

SHOWN_MODELS = 20
"""How many models the table lists; the report itself has all."""


def document(report: Report, charts: Sequence[Chart]) -> list[Block]:
    """All of it, a section for each part that has something to say."""
    return [
        *_head(report),
        *_answer(report),
        *_written(report),
        *_goals(report["goals"]),
        *_numbers(report["facts"]),
        *(Figure(chart) for chart in charts),
        *_models(report),
        *_findings(report["findings"]),
        *_recommendations(report),
        *_next_actions(report["next_actions"]),
        *_missing(report),
        *_method(report),
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
    answers: dict[str, Callable[[Report], list[str | None]]] = {
        "cost": _cost_answer,
        "latency": _latency_answer,
        "capacity": lambda report: [_statement(report, "peak"), _statement(report, "above_level")],
        "volume": lambda report: [_volume(report), _statement(report, "token_ratio")],
        "overview": lambda report: [_volume(report), *_cost_answer(report), _statement(report, "peak")],
    }
    sentences = [sentence for sentence in answers[report["triage"]["intent"]](report) if sentence] or [_volume(report)]
    return [Paragraph([strong("In short."), Span(" ".join(sentences))]), *_cautions(report)]


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
    cost, recommendations = report["cost"], report["recommendations"]
    if report["prices"] is None:
        return ["The cost was not computed."]
    if cost is None:
        return ["The cost cannot be said: no model in this trace has a price."]
    sentences: list[str | None] = [f"At {report['prices']['label']}, {_statement(report, 'cost')}"]
    if not recommendations:
        return [*sentences, "Nothing that was computed would save money."]
    best = recommendations[0]
    sentences.append(f"The largest saving found is {_saving(best['estimated_saving'])}: {_lower(best['title'])}.")
    if report["savings_together"]:
        sentences.append(f"All that was found, together: {_saving(report['savings_together'])}.")
    return sentences


def _latency_answer(report: Report) -> list[str | None]:
    if _statement(report, "slow_tail"):
        return [_statement(report, "slow_tail"), _statement(report, "time_per_token")]
    return ["This trace cannot say how long requests took: it has no readable times in a column LatencyMs."]


def _written(report: Report) -> list[Block]:
    """What the model has written, without the sentences whose numbers nobody computed."""
    narrative = report["narrative"]
    if narrative is None:
        return []
    blocks: list[Block] = [Heading(2, [Span("In words")])]
    blocks += [Paragraph([Span(paragraph)]) for paragraph in narrative["text"].split("\n\n") if paragraph]
    if narrative["removed"]:
        sentences = "A sentence" if len(narrative["removed"]) == 1 else "Some sentences"
        blocks.append(
            Paragraph([emphasis(f"{sentences} of the model had a number that was not computed, and was removed.")])
        )
    return blocks


def _goals(goals: Sequence[Report]) -> list[Block]:
    if not goals:
        return []
    words = {True: "within reach", False: "out of reach", None: "cannot be said"}
    items = [
        Item(
            [strong(f"{words[goal['reached']]}:"), foreign(goal["text"]), Span(f"— {goal['why']}")],
            _working(goal["arithmetic"]),
        )
        for goal in goals
    ]
    return [Heading(2, [Span("What is to be reached")]), Items(items)]


def _numbers(facts: Report) -> list[Block]:
    zone = {"unknown": "zone unknown", "as given": "as given", "mixed": "some without a zone"}[facts["time_zone"]]
    rows = [
        ("Requests", show(facts["requests"])),
        ("Input tokens", show(facts["input_tokens"])),
        ("Output tokens", show(facts["output_tokens"])),
        ("First request", f"{facts['first_time']} ({zone})"),
        ("Last request", facts["last_time"]),
        ("Input tokens of a request: p50 / p95 / max", _ranks(facts["input_tokens_percentiles"])),
        ("Output tokens of a request: p50 / p95 / max", _ranks(facts["output_tokens_percentiles"])),
    ]
    if peak := facts.get("peak_minute"):
        rows.append(("Busiest minute", f"{peak['minute']}, {show(peak['requests'])} requests"))
    rows.append(("Rows left out, unreadable", f"{show(facts['broken_rows'])} of {show(facts['total_rows'])}"))
    if facts.get("latency", {}).get("rows"):
        latency = facts["latency"]
        rows.append(("Latency in ms: p50 / p95 / max", _ranks({r: latency[f"{r}_ms"] for r in ("p50", "p95", "max")})))
    return [
        Heading(2, [Span("The trace in numbers")]),
        Table(("", ""), [(Span(name), Span(value)) for name, value in rows]),
    ]


def _models(report: Report) -> list[Block]:
    """The table of models, where the trace names them."""
    models = report["facts"].get("by_model")
    if not models:
        return []
    costs = {cost["model"]: cost for cost in (report["cost"] or {}).get("by_model", [])}
    timed = any(model.get("latency_ms", {}).get("rows") for model in models)
    head = ["Model", "Requests", "Input tokens", "Output tokens", f"Cost, {report['prices']['currency']}"]
    rows = [
        [*_model_cells(model, costs), *([Span(_model_p95(model))] if timed else [])] for model in models[:SHOWN_MODELS]
    ]
    blocks: list[Block] = [Heading(2, [Span("By model")]), Table([*head, "p95 ms"] if timed else head, rows)]
    if len(models) > SHOWN_MODELS:
        blocks.append(Paragraph([Span("Only the models with the most tokens are listed.")]))
    return blocks


def _model_cells(model: Report, costs: Mapping[str | None, Report]) -> list[Span]:
    cost = costs.get(model["model"])
    return [
        Span("not named") if model["model"] is None else foreign(model["model"], 60),
        *(Span(show(model[name])) for name in ("requests", "input_tokens", "output_tokens")),
        Span(money(cost["amount"]) if cost else "no price"),
    ]


def _model_p95(model: Report) -> str:
    return show(model["latency_ms"]["p95"]) if model["latency_ms"]["rows"] else "none"


def _findings(findings: Sequence[Report]) -> list[Block]:
    items = [
        Item(
            [strong(f"{finding['title']}."), Span(finding["statement"])],
            [*_working(finding["arithmetic"]), [Span(f"rests on {show(finding['rows'])} rows")]],
        )
        for finding in findings
    ]
    return [Heading(2, [Span("Findings")]), Items(items)] if items else []


def _recommendations(report: Report) -> list[Block]:
    recommendations = report["recommendations"]
    if not recommendations:
        return []
    named: set[str] = set()
    items = [_recommendation(item, named) for item in recommendations]
    blocks: list[Block] = [Heading(2, [Span("What would save money")]), Items(items, ordered=True)]
    if together := report["savings_together"]:
        total = Span(f"Together {_saving(together)}; no token is counted twice.")
        blocks.append(Items([Item([total], _working(together["arithmetic"]))]))
    return blocks


def _recommendation(item: Report, named: set[str]) -> Item:
    """Assumptions that have been named with an earlier one are not said again."""
    saving = item["estimated_saving"]
    formulas = [saving["arithmetic"], *([item["why_arithmetic"]] if "why_arithmetic" in item else [])]
    new = [assumption for assumption in item["assumptions"] if assumption["text"] not in named]
    named.update(assumption["text"] for assumption in new)
    return Item(
        [strong(item["title"]), Span(f"saves up to {_saving(saving)}. {item['why']}")],
        [*(words for formula in formulas for words in _working(formula)), *map(_assumption, new)],
    )


def _assumption(assumption: Report) -> Words:
    setting = [emphasis("Setting:"), code(assumption["setting"])] if assumption["setting"] else []
    return [Span(f"assumed: {assumption['text']}"), *setting]


def _next_actions(actions: Sequence[Report]) -> list[Block]:
    items = [Item([Span(step["action"]), emphasis("Because:"), Span(step["reason"])]) for step in actions]
    return [Heading(2, [Span("What to do next")]), Items(items, ordered=True)] if items else []


def _missing(report: Report) -> list[Block]:
    items = [Item([Span(gap["what"]), emphasis("Needed:"), Span(gap["needed"])]) for gap in report["missing"]]
    blocks: list[Block] = [Heading(2, [Span("What this report cannot say")]), Items(items)]
    if report["record"]:
        header = ",".join(report["record"])
        blocks.append(Paragraph([Span("A trace with this header would answer the question:"), code(header)]))
    return blocks


def _method(report: Report) -> list[Block]:
    triage, prices = report["triage"], report["prices"]
    items = [
        f"{triage['rule']} Confidence {show(triage['confidence'])}.",
        f"The data is {triage['sufficiency']} for that; at work were {', '.join(report['agents'])}.",
        "Percentiles are by nearest rank: p95 is a value of the trace that 95 % of the requests do not exceed.",
    ]
    if report["cost"] is not None:
        used = {
            price["model"]: price for item in [report["cost"], *report["recommendations"]] for price in item["prices"]
        }
        items.extend(
            f"Price of {price['model']} ({prices['label']}), per million tokens: "
            f"{show(price['input_per_million'])} {prices['currency']} input, "
            f"{show(price['output_per_million'])} {prices['currency']} output."
            for price in used.values()
        )
        if report["cost"]["uses_assumed_model"]:
            items.append(
                f"Requests whose model is not named are priced as {prices['assumed_model']} (setting prices.assumed_model)."
            )
    return [Heading(2, [Span("How this was computed")]), Items([Item([Span(item)]) for item in items])]


def _working(arithmetic: str) -> list[Words]:
    return [[code(formula)] for formula in arithmetic.split("; ") if formula]


def _saving(saving: Report) -> str:
    return f"{money(saving['amount'])} {saving['currency']} ({show(saving['percent_of_cost'], 1)} % of the cost)"


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]


def _ranks(ranks: Report) -> str:
    return " / ".join(show(ranks[rank]) for rank in ("p50", "p95", "max"))
