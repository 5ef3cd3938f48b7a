"""The agent that reads from a question what its user wants to reach."""

from __future__ import annotations

from carrel.agent import Agent, RunContext
from carrel_agents.goals import read_goals
from carrel_agents.values import GoalsResult, HandedOn


class GoalsTriage(Agent[HandedOn, GoalsResult]):
    """Input {"question"}; result: a GoalsResult, empty where no goal is stated in a form that is known."""

    name = "goals_triage"
    description = "Reads the goals in a question, as numbers, in the order in which they matter."

    async def run(self, context: RunContext, input: HandedOn) -> GoalsResult:
        await context.emit.thinking("I read what is to be reached.")
        return GoalsResult(goals=tuple(read_goals(input.question)))
