"""The agent that reads from a question what its user wants to reach."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.goals import read_goals
from carrel_agents.questions import read_request
from carrel_agents.values import GoalsResult


class GoalsTriage(Agent):
    """Input {"question"}; result: a GoalsResult, empty where no goal is stated in a form that is known."""

    name = "goals_triage"
    description = "Reads the goals in a question, as numbers, in the order in which they matter."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        question = read_request(input)["question"]
        await context.thinking("I read what is to be reached.")
        return GoalsResult(goals=tuple(read_goals(question))).as_json()
