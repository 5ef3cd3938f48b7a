"""The agent that prices a trace and looks for what could cost less, with one SQL statement."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents import facts, statements, trace
from carrel_agents.costs import trace_cost
from carrel_agents.findings import find_in_cost
from carrel_agents.prices import prices_in_effect
from carrel_agents.values import OptimizationResult, TriageResult, read_handed_on


class Optimization(Agent):
    """Input: the request and the result of `triage`; result: an OptimizationResult."""

    name = "optimization"
    description = "Prices a usage trace and finds long, short and repeated requests in it."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        handed = read_handed_on(input)
        triage = handed.need("triage", TriageResult)
        source = trace.source_of(handed)
        await context.thinking("I price the trace and look for long prompts, short requests and repetitions.")
        prices = prices_in_effect(context.settings)
        groups = await trace.query(context, source.corpus, statements.groups_sql(source, triage.limits))
        found = facts.by_kind(source.columns, groups, triage.limits)
        cost = trace_cost(groups, prices)
        findings = find_in_cost({**triage.facts, **found}, groups, cost, prices)
        return OptimizationResult(
            facts=found, groups=tuple(groups), cost=cost, prices=prices, findings=tuple(findings)
        ).as_json()
