"""The agent that prices a trace and looks for what could cost less, with one SQL statement."""

from __future__ import annotations

from carrel.agent import Agent, RunContext
from carrel_agents import facts, statements, trace
from carrel_agents.costs import trace_cost
from carrel_agents.findings import find_in_cost
from carrel_agents.prices import prices_in_effect
from carrel_agents.values import HandedOn, OptimizationResult, TriageResult


class Optimization(Agent[HandedOn, OptimizationResult]):
    """Input: the request and the result of `triage`; result: an OptimizationResult."""

    name = "optimization"
    description = "Prices a usage trace and finds long, short and repeated requests in it."

    async def run(self, context: RunContext, input: HandedOn) -> OptimizationResult:
        triage = input.need("triage", TriageResult)
        source = trace.source_of(input)
        await context.emit.thinking("I price the trace and look for long prompts, short requests and repetitions.")
        prices = prices_in_effect(context.settings)
        groups = await trace.query(context, source.corpus, statements.groups_sql(source, triage.limits))
        found = facts.by_kind(source.columns, groups, triage.limits)
        cost = trace_cost(groups, prices)
        findings = find_in_cost({**triage.facts, **found}, groups, cost, prices)
        return OptimizationResult(facts=found, groups=tuple(groups), cost=cost, prices=prices, findings=tuple(findings))
