"""The agent that turns findings into recommendations with a computed saving, and into an order of next steps."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.next_actions import next_actions
from carrel_agents.questions import read_results
from carrel_agents.savings import recommend, together


class Actions(Agent):
    """Input: the results of `triage`, `data` and `optimization`; result {recommendations, savings_together, next_actions}."""

    name = "actions"
    description = "Costs what could be changed and orders what to do next."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        triage, data, optimization = read_results(input, "triage", "data", "optimization")
        await context.thinking("I compute what each change would save and put the changes in order.")
        cost, prices = optimization["cost"], optimization["prices"]
        recommendations = recommend(data["facts"], data["groups"], cost, prices)
        return {
            "recommendations": recommendations,
            "savings_together": together(recommendations, cost),
            "next_actions": next_actions(triage, data["facts"], recommendations, cost, prices),
        }
