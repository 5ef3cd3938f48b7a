"""Agents that do what tests need: sleep, die, fail, crash, count, refuse to stop, call each other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import ClassVar

from carrel.agent import JSON, Agent, AgentError, RunContext


class Sleeper(Agent):
    """Input {"seconds": float}; sleeps so long, then says "awake" through the tool echo."""

    name = "sleeper"
    description = "Sleeps."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await context.emit.thinking("I sleep.")
        await asyncio.sleep(input.get("seconds", 1.0))
        return await context.tools.call("echo", text="awake")


class Dying(Agent):
    """Ends the process that it runs in, if it is let."""

    name = "dying"
    description = "Dies."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        await context.emit.thinking("I die.")
        raise SystemExit(3)


class Failing(Agent):
    """Says why it cannot do what it was asked."""

    name = "failing"
    description = "Fails and says why."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        raise AgentError("NOTHING_TO_DO", "Ask for something that can be done.")


class Crashing(Agent):
    """Has a fault; its message holds what nobody else may see."""

    name = "crashing"
    description = "Crashes."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        raise ValueError("a secret of the agent")


class Counting(Agent):
    """Input {"calls": int, "seconds": float}; calls the tool echo so often, each time with its number and a pause after it."""

    name = "counting"
    description = "Counts through a tool."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        total = int(input.get("calls", 3))
        numbers = []
        await context.emit.thinking("I count.")
        for number in range(1, total + 1):
            await context.emit.progress("counting", number, total)
            answer = await context.tools.call("echo", text=str(number))
            numbers.append(int(answer["text"]))
            await asyncio.sleep(input.get("seconds", 0.0))
        return {"numbers": numbers}


class Stubborn(Agent):
    """Does not stop when it is told to, and goes on asking for a tool, for as long as {"seconds": float}."""

    name = "stubborn"
    description = "Swallows its cancellation."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        loop = asyncio.get_running_loop()
        end = loop.time() + input.get("seconds", 20.0)
        await context.emit.thinking("I stay.")
        while loop.time() < end:
            try:
                await asyncio.sleep(0.1)
                if input.get("uses_tool"):
                    await context.tools.call("echo", text="still here")
            except asyncio.CancelledError:
                continue
        return {"stayed": True}


class Nested(Agent):
    """Input {"depth": int, "leaf": agent}; runs itself so deep, and at the bottom the leaf, twice."""

    name = "nested"
    description = "Runs other agents."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        depth = int(input.get("depth", 1))
        if depth > 0:
            return {"inner": await context.agents.run("nested", {**input, "depth": depth - 1})}
        leaf = input.get("leaf", "counting")
        return {"leaves": [await context.agents.run(leaf, {"calls": 2}) for _ in range(2)]}


class Unjust(Agent):
    """Returns what is no JSON value, or too much of it: {"kind": "nan" | "object" | "large"}."""

    name = "unjust"
    description = "Returns what it may not."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        match input.get("kind"):
            case "nan":
                return float("nan")
            case "large":
                return "x" * (1024 * 1024)
        return object()


class Orderly(Agent):
    """Declares what it takes; gives it back."""

    name = "orderly"
    description = "Takes what it declares, and nothing else."
    version = "3.1"
    input_schema: ClassVar[Mapping[str, JSON]] = {
        "type": "object",
        "properties": {
            "amount": {"type": "number", "minimum": 0},
            "lines": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["amount"],
        "additionalProperties": False,
    }

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return dict(input)


AGENTS = (Orderly, Sleeper, Dying, Failing, Crashing, Counting, Stubborn, Nested, Unjust)
