"""An agent of three journaled steps that call nothing: what the engine costs when nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from carrel.agent import JSON, Agent, RunContext


class Stepping(Agent):
    """Returns {"sum": 6}."""

    name: ClassVar = "stepping"
    description: ClassVar = "Adds three numbers, each from a step."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return {"sum": sum([await context.step(f"number {number}", _Number(number)) for number in (1, 2, 3)])}


class _Number:
    """A step that calls nothing."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def __call__(self) -> JSON:
        return self._number


AGENTS = (Stepping,)
