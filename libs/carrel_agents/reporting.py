"""The agent that writes the report: what the others computed, the relevant first, and a readable version of it."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.missing import what_is_missing
from carrel_agents.questions import read_request, read_results
from carrel_agents.report import markdown


class Reporting(Agent):
    """Input: the request and the results of the four agents before it; result: the report.

    The report holds question, corpus, triage, facts, cost, findings, recommendations, savings_together, next_actions,
    missing, prices and markdown. Every number in `markdown` is one of the others.
    """

    name = "reporting"
    description = "Writes the report of a usage trace from what the other agents computed."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        request = read_request(input)
        triage, data, optimization, actions = read_results(input, "triage", "data", "optimization", "actions")
        await context.thinking("I put what bears on the question first and write the report.")
        report: dict[str, JSON] = {
            **request,
            "triage": triage,
            "facts": data["facts"],
            "cost": optimization["cost"],
            "findings": relevant_first(optimization["findings"], triage["intent"]),
            **actions,
            "missing": what_is_missing(triage, data["facts"], optimization["cost"]),
            "prices": optimization["prices"],
        }
        return {**report, "markdown": markdown(report)}


def relevant_first(findings: list[dict[str, JSON]], intent: str) -> list[dict[str, JSON]]:
    """The findings on the question's topic, then the rest; each part in the order it had."""
    return sorted(findings, key=lambda finding: intent not in finding["topics"])
