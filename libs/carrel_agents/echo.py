"""The smallest agent with a tool: it says back what it was told, for health checks and load tests."""

from __future__ import annotations

from collections.abc import Mapping

from carrel.agent import JSON, Agent, AgentError, RunContext


class Echo(Agent):
    """Input {"text": str}; result {"text": what the tool `echo` gave back}."""

    name = "echo"
    description = "Says back what it was told, through the tool echo."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        text = input.get("text")
        if not isinstance(text, str):
            raise AgentError("INVALID_INPUT", 'Give the words to echo as a string in "text".')
        await context.emit.thinking("I say back what I was told.")
        result = await context.tools.call("echo", text=text)
        return {"text": result["text"]}
