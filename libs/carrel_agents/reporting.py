"""The agent that writes the report: what the others computed, the relevant first, readable as Markdown and as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrel.agent import JSON, Agent, RunContext
from carrel_agents import writer
from carrel_agents.charts import charts_of
from carrel_agents.goals import judge
from carrel_agents.html import html
from carrel_agents.markdown import markdown
from carrel_agents.missing import what_is_missing, without_result
from carrel_agents.report import document, title
from carrel_agents.values import HandedOn, ModelFailure, TriageResult

_PARTS = ("goals_triage", "data", "optimization", "actions", "data_helper")


class Reporting(Agent[HandedOn, dict[str, JSON]]):
    """Input: the request and the results of the agents before it; result: the report.

    The report holds question, corpus, triage, agents, facts, cost, findings, recommendations, savings_together, next_actions, goals,
    missing, record, failures, prices, model, narrative, charts, markdown and html. Every number in the texts is one of the others. What
    an agent did not compute is None or empty, and `missing` says so. `model` is None without a language model, else what it added.
    """

    name = "reporting"
    description = "Writes the report of a usage trace from what the other agents computed."

    async def run(self, context: RunContext, input: HandedOn) -> dict[str, JSON]:
        await context.emit.thinking("I put what bears on the question first and write the report.")
        report = collected(input)
        narrative = await writer.narrative(context, input, report)
        report["model"] = None if narrative is None else by_model(input, narrative)
        report["narrative"] = None if isinstance(narrative, ModelFailure) else narrative
        charts = charts_of(report)
        blocks = document(report, charts)
        return {
            **report,
            "charts": [chart._asdict() for chart in charts],
            "markdown": markdown(blocks),
            "html": html(title(report), blocks),
        }


def collected(handed: HandedOn) -> dict[str, JSON]:
    """The results of all agents as one report, without its texts."""
    triage, data, optimization = handed.need("triage", TriageResult), handed.data, handed.optimization
    facts = {
        **triage.facts,
        **(optimization.facts if optimization else {}),
        **(data.facts if data else {}),
    }
    findings = [*(optimization.findings if optimization else ()), *(data.findings if data else ())]
    cost = optimization.cost if optimization else None
    recommendations = [*(optimization.recommendations if optimization else ())]
    together = optimization.savings_together if optimization else None
    savings = together or next((item["estimated_saving"] for item in recommendations), None)
    goals = handed.goals_triage.goals if handed.goals_triage else ()
    return {
        "question": handed.question,
        "corpus": handed.corpus,
        "triage": triage.model_dump(
            mode="json", exclude={"facts", "limits", "asked", "model_failure"}, exclude_none=True
        ),
        "agents": ["triage", *(part for part in _PARTS if getattr(handed, part) is not None)],
        "facts": facts,
        "cost": cost,
        "findings": relevant_first(findings, triage.intent),
        "recommendations": recommendations,
        "savings_together": together,
        "next_actions": [*(handed.actions.next_actions if handed.actions else ())],
        "goals": [judge(goal, facts, cost, savings) for goal in goals],
        "missing": _missing(handed, triage),
        "record": [*(handed.data_helper.record if handed.data_helper else ())],
        "failures": [failure.model_dump() for failure in handed.failures],
        "prices": optimization.prices if optimization else None,
    }


def by_model(handed: HandedOn, narrative: Mapping[str, JSON] | ModelFailure) -> dict[str, JSON]:
    """What a model added beside its narrative: {texts: by agent and name, removed: sentences, failures: where it could not, and why}."""
    written = {
        name: result.written
        for name, result in (("optimization", handed.optimization), ("actions", handed.actions))
        if result is not None and result.written is not None
    }
    failures = {
        "triage": handed.triage.model_failure if handed.triage else None,
        **{name: each.failure for name, each in written.items()},
        "reporting": narrative if isinstance(narrative, ModelFailure) else None,
    }
    return {
        "texts": {name: each.texts for name, each in written.items() if each.texts},
        "removed": [sentence for each in written.values() for sentence in each.removed],
        "failures": [{"agent": name, **each.model_dump()} for name, each in failures.items() if each is not None],
    }


def relevant_first(findings: Sequence[dict[str, JSON]], intent: str) -> list[dict[str, JSON]]:
    """The findings that are most about the question's topic, those that bear on it, then the rest; each part in the order it had."""
    return sorted(findings, key=lambda finding: (intent not in finding["topics"], intent != finding["topics"][0]))


def _missing(handed: HandedOn, triage: TriageResult) -> list[dict[str, JSON]]:
    """What failed, then what the trace lacks."""
    failed = [without_result(failure) for failure in handed.failures]
    if handed.data_helper is not None:
        return [*failed, *handed.data_helper.missing]
    cost = handed.optimization.cost if handed.optimization else None
    return [*failed, *what_is_missing(triage, cost, optimized=handed.optimization is not None)]
