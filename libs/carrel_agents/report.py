"""The readable version of a report, in Markdown. It computes nothing: every number in it is one of the report's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from carrel.agent import JSON
from carrel_agents.formula import money, show

Report = Mapping[str, JSON]

SHOWN_MODELS = 20
"""How many models the table lists; the report itself has all."""


def markdown(report: Report) -> str:
    """The whole text, a section for each part that has something to say."""
    sections = [
        _head(report),
        _answer(report),
        _numbers(report["facts"]),
        _models(report),
        _findings(report["findings"]),
        _recommendations(report),
        _next_actions(report["next_actions"]),
        _missing(report["missing"]),
        _method(report),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def plain(text: str, most: int = 300) -> str:
    """A user's text as one line that Markdown and HTML show as it is, cut at `most` characters."""
    line = " ".join(text.split())
    cut = line if len(line) <= most else line[:most] + "…"
    return re.sub(r"([\\`*_{}\[\]()#|!~$:@.])", r"\\\1", _no_html(cut))


def _prose(sentence: str) -> str:
    """A sentence of the agents, in which a name from a table or a trace may occur: no mark of it takes effect."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", _no_html(sentence))


def _no_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _head(report: Report) -> list[str]:
    return [f"# Usage report: {plain(report['corpus'])}", "", f"> {plain(report['question'])}"]


def _answer(report: Report) -> list[str]:
    """The finding that answers the question, and what could be saved, before anything else."""
    answers: dict[str, Callable[[Report], list[str | None]]] = {
        "cost": _cost_answer,
        "latency": _latency_answer,
        "capacity": lambda report: [_statement(report, "peak"), _statement(report, "above_level")],
        "volume": lambda report: [_volume(report), _statement(report, "token_ratio")],
        "overview": lambda report: [_volume(report), *_cost_answer(report), _statement(report, "peak")],
    }
    sentences = [sentence for sentence in answers[report["triage"]["intent"]](report) if sentence]
    return ["**In short.** " + " ".join(sentences), *_caution(report["facts"])]


def _caution(facts: Report) -> list[str]:
    if not facts["broken_rows"]:
        return []
    rows = f"{show(facts['broken_rows'])} of {show(facts['total_rows'])} rows"
    return ["", f"**Note:** {rows} could not be read and are left out."]


def _statement(report: Report, name: str) -> str | None:
    return next((_prose(finding["statement"]) for finding in report["findings"] if finding["name"] == name), None)


def _volume(report: Report) -> str:
    facts = report["facts"]
    return (
        f"{show(facts['requests'])} requests with {show(facts['input_tokens'])} input tokens and "
        f"{show(facts['output_tokens'])} output tokens."
    )


def _cost_answer(report: Report) -> list[str | None]:
    cost, recommendations = report["cost"], report["recommendations"]
    if cost is None:
        return ["The cost cannot be said: no model in this trace has a price."]
    sentences: list[str | None] = [f"At {_prose(report['prices']['label'])}, {_statement(report, 'cost')}"]
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


def _numbers(facts: Report) -> list[str]:
    zone = {"unknown": "zone unknown", "as given": "as given", "mixed": "some without a zone"}[facts["time_zone"]]
    rows = [
        ("Requests", show(facts["requests"])),
        ("Input tokens", show(facts["input_tokens"])),
        ("Output tokens", show(facts["output_tokens"])),
        ("First request", f"{facts['first_time']} ({zone})"),
        ("Last request", facts["last_time"]),
        ("Input tokens of a request: p50 / p95 / max", _ranks(facts["input_tokens_percentiles"])),
        ("Output tokens of a request: p50 / p95 / max", _ranks(facts["output_tokens_percentiles"])),
        ("Busiest minute", f"{facts['peak_minute']['minute']}, {show(facts['peak_minute']['requests'])} requests"),
        ("Rows left out, unreadable", f"{show(facts['broken_rows'])} of {show(facts['total_rows'])}"),
    ]
    if facts.get("latency", {}).get("rows"):
        latency = facts["latency"]
        rows.append(("Latency in ms: p50 / p95 / max", _ranks({r: latency[f"{r}_ms"] for r in ("p50", "p95", "max")})))
    return ["## The trace in numbers", "", *_table(("", ""), rows)]


def _models(report: Report) -> list[str]:
    """The table of models, where the trace names them."""
    models = report["facts"].get("by_model")
    if not models:
        return []
    costs = {cost["model"]: cost for cost in (report["cost"] or {}).get("by_model", [])}
    timed = any(model.get("latency_ms", {}).get("rows") for model in models)
    head = ["Model", "Requests", "Input tokens", "Output tokens", f"Cost, {report['prices']['currency']}"]
    rows = [[*_model_cells(model, costs), *([_model_p95(model)] if timed else [])] for model in models[:SHOWN_MODELS]]
    lines = ["## By model", "", *_table([*head, "p95 ms"] if timed else head, rows)]
    if len(models) > SHOWN_MODELS:
        lines += ["", "Only the models with the most tokens are listed."]
    return lines


def _model_cells(model: Report, costs: Mapping[str | None, Report]) -> list[str]:
    cost = costs.get(model["model"])
    return [
        "not named" if model["model"] is None else plain(model["model"], 60),
        *(show(model[name]) for name in ("requests", "input_tokens", "output_tokens")),
        money(cost["amount"]) if cost else "no price",
    ]


def _model_p95(model: Report) -> str:
    return show(model["latency_ms"]["p95"]) if model["latency_ms"]["rows"] else "none"


def _findings(findings: Sequence[Report]) -> list[str]:
    lines = ["## Findings"]
    for finding in findings:
        lines += [
            "",
            f"**{_prose(finding['title'])}.** {_prose(finding['statement'])}",
            *_working(finding["arithmetic"]),
        ]
        lines.append(f"  - rests on {show(finding['rows'])} rows")
    return lines


def _recommendations(report: Report) -> list[str]:
    recommendations = report["recommendations"]
    if not recommendations:
        return []
    lines = ["## What would save money"]
    named: set[str] = set()
    for number, item in enumerate(recommendations, 1):
        saving = item["estimated_saving"]
        lines += ["", f"{number}. **{_prose(item['title'])}** saves up to {_saving(saving)}. {_prose(item['why'])}"]
        formulas = [saving["arithmetic"], *([item["why_arithmetic"]] if "why_arithmetic" in item else [])]
        lines += [f"   {line.strip()}" for formula in formulas for line in _working(formula)]
        new = [assumption for assumption in item["assumptions"] if assumption["text"] not in named]
        named.update(assumption["text"] for assumption in new)
        lines += [f"   - assumed: {_assumption(assumption)}" for assumption in new]
    together = report["savings_together"]
    if together:
        lines += ["", f"Together {_saving(together)}; no token is counted twice.", *_working(together["arithmetic"])]
    return lines


def _assumption(assumption: Report) -> str:
    setting = f" (setting `{assumption['setting']}`)" if assumption["setting"] else ""
    return _prose(assumption["text"]) + setting


def _next_actions(actions: Sequence[Report]) -> list[str]:
    steps = [f"{step['order']}. {_prose(step['action'])} *Because:* {_prose(step['reason'])}" for step in actions]
    return ["## What to do next", "", *steps]


def _missing(missing: Sequence[Report]) -> list[str]:
    return ["## What this trace cannot say", "", *(f"- {gap['what']} *Needed:* {gap['needed']}" for gap in missing)]


def _method(report: Report) -> list[str]:
    triage, prices = report["triage"], report["prices"]
    lines = [
        "## How this was computed",
        "",
        f"- {_prose(triage['rule'])} Confidence {show(triage['confidence'])}: "
        "the share of the telling words that speak for it.",
        "- Percentiles are by nearest rank: p95 is a value of the trace that 95 % of the requests do not exceed.",
    ]
    if report["cost"] is None:
        return lines
    used = {price["model"]: price for item in [report["cost"], *report["recommendations"]] for price in item["prices"]}
    lines.extend(
        f"- Price of {_prose(price['model'])} ({_prose(prices['label'])}), per million tokens: "
        f"{show(price['input_per_million'])} {prices['currency']} input, "
        f"{show(price['output_per_million'])} {prices['currency']} output."
        for price in used.values()
    )
    if report["cost"]["uses_assumed_model"]:
        model = _prose(prices["assumed_model"])
        lines.append(f"- Requests whose model is not named are priced as {model} (setting `prices.assumed_model`).")
    return lines


def _working(arithmetic: str) -> list[str]:
    return [f"  - `{formula}`" for formula in arithmetic.split("; ")]


def _saving(saving: Report) -> str:
    return f"{money(saving['amount'])} {saving['currency']} ({show(saving['percent_of_cost'], 1)} % of the cost)"


def _lower(title: str) -> str:
    return _prose(title[0].lower() + title[1:])


def _ranks(ranks: Report) -> str:
    return " / ".join(show(ranks[rank]) for rank in ("p50", "p95", "max"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
