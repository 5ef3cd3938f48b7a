"""The agent that answers a question about a usage trace: it hands the work to five others and their results onward."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.questions import read_request

STEPS = ("triage", "data", "optimization", "actions", "reporting")
"""The agents in their order; each is given the request and the results of those before it, under their names."""


class Supervisor(Agent):
    """Input {"question": str, "corpus": str}; result: the report of `reporting`."""

    name = "supervisor"
    description = "Answers a question about a usage trace of language models with a report computed from it."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        handed_on: dict[str, JSON] = read_request(input)
        await context.thinking(
            "I look at what is asked and at the trace, compute the facts, look for savings and write the report."
        )
        for done, step in enumerate(STEPS):
            await context.progress(f"{step} begins", done, len(STEPS))
            handed_on[step] = await context.run_agent(step, handed_on)
        await context.progress("the report is ready", len(STEPS), len(STEPS))
        return handed_on["reporting"]
