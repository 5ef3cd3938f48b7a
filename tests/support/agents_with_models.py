"""Agents for tests that ask language models."""

from __future__ import annotations

from dataclasses import dataclass

import carrel
from carrel.agent import RunContext


@dataclass
class Question:
    text: str
    model: str = "small"
    then_sleep: float = 0.0


@dataclass
class Written:
    text: str
    model: str
    settings: str


@carrel.agent(version="1")
async def writing(context: RunContext, input: Question) -> Written:
    """Has a model answer, and stays a while."""
    answer = await context.model.ask(input.text, model=input.model)
    await context.emit.thinking("I have the answer.")
    if input.then_sleep:
        await context.tools.call("sleep", seconds=input.then_sleep)
    return Written(answer.text, answer.model, f"{context.settings} {context.model.names} {vars(type(context.model))}")


@carrel.agent(name="writing_apart", isolation="process")
async def writing_apart(context: RunContext, input: Question) -> Written:
    """The same in a process of its own."""
    return await context.agents.run(writing, input)


@carrel.agent
async def consenting(context: RunContext, input: Question) -> bool:
    """Asks for consent to what it is told."""
    return await context.wait_for.approval(input.text)


AGENTS = (writing, writing_apart, consenting)
