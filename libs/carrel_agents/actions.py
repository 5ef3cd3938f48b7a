"""The agent that turns findings into recommendations with a computed saving, and into an order of next steps."""

from __future__ import annotations

from carrel.agent import Agent, RunContext
from carrel_agents.next_actions import next_actions
from carrel_agents.savings import recommend, together
from carrel_agents.values import ActionsResult, HandedOn, OptimizationResult, TriageResult


class Actions(Agent[HandedOn, ActionsResult]):
    """Input: the results of `triage` and `optimization`, and of `data` where there is one; result: an ActionsResult."""

    name = "actions"
    description = "Costs what could be changed and orders what to do next."

    async def run(self, context: RunContext, input: HandedOn) -> ActionsResult:
        triage, optimization = input.need("triage", TriageResult), input.need("optimization", OptimizationResult)
        await context.emit.thinking("I compute what each change would save and put the changes in order.")
        facts = {**triage.facts, **optimization.facts, **(input.data.facts if input.data else {})}
        recommendations = recommend(facts, optimization.groups, optimization.cost, optimization.prices)
        return ActionsResult(
            recommendations=tuple(recommendations),
            savings_together=together(recommendations, optimization.cost),
            next_actions=tuple(next_actions(triage, facts, recommendations, optimization.cost, optimization.prices)),
        )
