"""A pydantic-ai agent as a Carrel agent. It needs carrel[models], and a model in the file that CARREL_MODELS_FILE names.

Its model is the operator's, and its key is not here; its tools are the user's, by way of tool-dispatch. What the model has answered and
what the tools have done is in the journal: a run that goes on elsewhere does not ask, or pay, again.
"""

from __future__ import annotations

import pydantic_ai

import carrel
from carrel.agent import RunContext
from carrel.with_pydantic_ai import CarrelModel, ToolCard, carrel_tools

ECHO = ToolCard(
    "echo",
    "Says back what it is told.",
    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
)


@carrel.agent
async def repeating(context: RunContext, input: dict[str, str]) -> str:
    """Has a model use a tool."""
    agent = pydantic_ai.Agent(
        CarrelModel(context), instructions="Use the tool.", toolsets=[carrel_tools(context, ECHO)]
    )
    return (await agent.run(input["text"])).output


AGENTS = (repeating,)
