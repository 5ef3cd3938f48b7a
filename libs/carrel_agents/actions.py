"""The agent that turns what was computed into steps, in the order in which to take them."""

from __future__ import annotations

from carrel.agent import Agent, RunContext
from carrel_agents.next_actions import next_actions
from carrel_agents.values import ActionsResult, HandedOn, OptimizationResult, TriageResult
from carrel_agents.writer import explain

HOW = (
    "You advise the person who asked the question. Say of each of the next actions how to do it, in at most three sentences: what "
    "to change, with whom or where, and how to see that it worked."
)


class Actions(Agent[HandedOn, ActionsResult]):
    """Input: the results of `triage` and `optimization`, and of `data` where there is one; result: an ActionsResult.

    The steps and their reasons follow from what was computed. A model, where there is one, says how to take each.
    """

    name = "actions"
    description = "Turns recommendations into steps, and orders them."

    async def run(self, context: RunContext, input: HandedOn) -> ActionsResult:
        triage, optimization = input.need("triage", TriageResult), input.need("optimization", OptimizationResult)
        await context.emit.thinking("I turn the changes into steps and put these in order.")
        facts = {**triage.facts, **optimization.facts, **(input.data.facts if input.data else {})}
        steps = next_actions(triage, facts, optimization.recommendations, optimization.cost, optimization.prices)
        given = {"recommendations": optimization.recommendations, "next_actions": steps}
        written = await explain(context, input, HOW, given, [step["name"] for step in steps])
        return ActionsResult(next_actions=tuple(steps), written=written)
