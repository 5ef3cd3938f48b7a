"""The tables of a report: the trace in numbers, and its models."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON
from carrel_agents.document import Block, Heading, Paragraph, Span, Table, foreign
from carrel_agents.formula import said, show

Report = Mapping[str, JSON]

SHOWN_MODELS = 20
"""How many models the table lists; the report itself has all."""


def numbers(facts: Report) -> list[Block]:
    """The trace as a whole."""
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
        Table(("What", "Value"), [(Span(name), Span(value)) for name, value in rows]),
    ]


def models(report: Report) -> list[Block]:
    """The models, where the trace names them."""
    named = report["facts"].get("by_model")
    if not named:
        return []
    costs = {cost["model"]: cost for cost in (report["cost"] or {}).get("by_model", [])}
    timed = any(model.get("latency_ms", {}).get("rows") for model in named)
    head = ["Model", "Requests", "Input tokens", "Output tokens", f"Cost, {report['prices']['currency']}"]
    rows = [
        [*_model_cells(model, costs), *([Span(_model_p95(model))] if timed else [])] for model in named[:SHOWN_MODELS]
    ]
    blocks: list[Block] = [Heading(2, [Span("By model")]), Table([*head, "p95 ms"] if timed else head, rows)]
    if len(named) > SHOWN_MODELS:
        blocks.append(Paragraph([Span("Only the models with the most tokens are listed.")]))
    return blocks


def _model_cells(model: Report, costs: Mapping[str | None, Report]) -> list[Span]:
    cost = costs.get(model["model"])
    return [
        Span("not named") if model["model"] is None else foreign(model["model"], 60),
        *(Span(show(model[name])) for name in ("requests", "input_tokens", "output_tokens")),
        Span(said(cost["amount"]) if cost else "no price"),
    ]


def _model_p95(model: Report) -> str:
    return show(model["latency_ms"]["p95"]) if model["latency_ms"]["rows"] else "none"


def _ranks(ranks: Report) -> str:
    return " / ".join(show(ranks[rank]) for rank in ("p50", "p95", "max"))
