"""The agent that turns findings into recommendations with a computed saving, and into an order of next steps."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.next_actions import next_actions
from carrel_agents.savings import recommend, together
from carrel_agents.values import ActionsResult, OptimizationResult, TriageResult, read_handed_on


class Actions(Agent):
    """Input: the results of `triage` and `optimization`, and of `data` where there is one; result: an ActionsResult."""

    name = "actions"
    description = "Costs what could be changed and orders what to do next."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        handed = read_handed_on(input)
        triage, optimization = handed.need("triage", TriageResult), handed.need("optimization", OptimizationResult)
        await context.thinking("I compute what each change would save and put the changes in order.")
        facts = {**triage.facts, **optimization.facts, **(handed.data.facts if handed.data else {})}
        recommendations = recommend(facts, optimization.groups, optimization.cost, optimization.prices)
        return ActionsResult(
            recommendations=tuple(recommendations),
            savings_together=together(recommendations, optimization.cost),
            next_actions=tuple(
                next_actions(triage, facts, recommendations, optimization.cost, optimization.prices)
            ),
        ).as_json()
