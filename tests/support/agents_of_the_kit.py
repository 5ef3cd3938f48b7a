"""Agents that do each thing there is to do: the test kit and agent-execution must make the same of them."""

from __future__ import annotations

import asyncio

import carrel
from carrel.agent import JSON, AgentError, RunContext, ToolError


@carrel.agent
async def kit_adding(context: RunContext, input: dict[str, int]) -> int:
    """Adds two numbers, in two steps."""

    async def add() -> JSON:
        return input["a"] + input["b"]

    await context.emit.thinking("I add.")
    total: int = await context.step("add", add)
    return total


@carrel.agent
async def kit_all(context: RunContext, input: dict[str, str]) -> JSON:
    """Does everything once."""

    async def fail() -> JSON:
        raise AgentError("NOT_TODAY", "It does not go today.")

    await context.emit.progress("begin", 1, 2)
    found: dict[str, JSON] = {"echo": await context.tools.call("echo", text=input["text"])}
    try:
        await context.tools.call("no_such_tool", n=1)
    except ToolError as error:
        found["tool"] = error.reason
    try:
        await context.step("fails", fail)
    except AgentError as error:
        found["step"] = error.reason
    found["agent"] = await context.agents.run("kit_adding", {"a": 1, "b": 2})
    typed: int = await context.agents.run(kit_adding, {"a": 3, "b": 4})
    found["typed"] = typed
    try:
        await context.agents.run("kit_adding", {"a": "x", "b": 1})
    except AgentError as error:
        found["invalid"] = error.reason
    found["same_time"] = await context.clock.now() <= await context.clock.now()
    found["chance"] = 0 <= context.random.random() < 1
    await context.emit.custom("done", {"n": 1})
    await context.emit.text("m", "The whole.")
    await context.state.set({"last": input["text"]})
    return found


@carrel.agent
async def kit_parallel(context: RunContext, input: dict[str, str]) -> list[str]:
    """Calls two tools at once."""
    both = await asyncio.gather(*(context.tools.call("echo", text=text) for text in ("one", "two")))
    return [each["text"] for each in both]


AGENTS = (kit_adding, kit_all, kit_parallel)
