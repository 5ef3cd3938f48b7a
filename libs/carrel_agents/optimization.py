"""The agent that prices a trace and computes what could cost less, with one SQL statement."""

from __future__ import annotations

from collections.abc import Sequence

from carrel.agent import Agent, RunContext
from carrel_agents import facts, statements, trace
from carrel_agents.costs import trace_cost
from carrel_agents.findings import find_by_kind
from carrel_agents.prices import prices_in_effect
from carrel_agents.savings import Recommendation, recommend, together
from carrel_agents.values import HandedOn, OptimizationResult, TriageResult, Written
from carrel_agents.writer import explain

ORDER = (
    "You advise the person who asked the question. Put the recommended changes into the order in which they should be tried, by "
    "what they save, how sure their assumptions are and what was asked, and say of each in one or two sentences why it has its place."
)


class Optimization(Agent[HandedOn, OptimizationResult]):
    """Input: the request and the result of `triage`; result: an OptimizationResult.

    Every saving is computed here. A model, where there is one, orders and explains them.
    """

    name = "optimization"
    description = "Prices a usage trace and computes what long, short and repeated requests in it could cost less."

    async def run(self, context: RunContext, input: HandedOn) -> OptimizationResult:
        triage = input.need("triage", TriageResult)
        source = trace.source_of(input)
        await context.emit.thinking("I price the trace and look for long prompts, short requests and repetitions.")
        prices = prices_in_effect(context.settings)
        groups = await trace.query(context, source.corpus, statements.groups_sql(source, triage.limits))
        found = facts.by_kind(source.columns, groups, triage.limits)
        known = {**triage.facts, **found}
        cost = trace_cost(groups, prices)
        recommendations = recommend(known, groups, cost, prices)
        names = [recommendation["name"] for recommendation in recommendations]
        written = await explain(context, input, ORDER, {"cost": cost, "recommendations": recommendations}, names)
        return OptimizationResult(
            facts=found,
            groups=tuple(groups),
            cost=cost,
            prices=prices,
            findings=tuple(find_by_kind(known, groups, cost, prices)),
            recommendations=in_order(recommendations, written),
            savings_together=together(recommendations, cost),
            written=written,
        )


def in_order(recommendations: Sequence[Recommendation], written: Written | None) -> tuple[Recommendation, ...]:
    """In the order of the model; what it left out follows, the greatest saving first."""
    places = list(written.texts) if written else []
    return tuple(
        sorted(recommendations, key=lambda each: places.index(each["name"]) if each["name"] in places else len(places))
    )
