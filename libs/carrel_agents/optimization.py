"""The agent that looks for what stands out in the facts of a trace: its findings, and what the trace costs."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, RunContext
from carrel_agents.costs import trace_cost
from carrel_agents.findings import find
from carrel_agents.prices import prices_in_effect
from carrel_agents.questions import read_results


class Optimization(Agent):
    """Input: the result of `data`; result {"cost": {...} or None, "findings": [...], "prices": the table in effect}."""

    name = "optimization"
    description = "Finds what stands out in the facts of a usage trace and what the trace costs."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        (data,) = read_results(input, "data")
        await context.thinking("I price the trace and look for what stands out: long prompts, short requests, peaks.")
        prices = prices_in_effect(context.settings)
        cost = trace_cost(data["groups"], prices)
        return {"cost": cost, "findings": find(data["facts"], cost), "prices": prices}
