"""Agents for the measurements of `agents`; a module of their own, because what they are forked from loads it with all that it imports."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from carrel.agent import JSON, Agent, RunContext


class Idle(Agent):
    """Does nothing."""

    name = "bench-idle"

    async def run(self, context: RunContext, input: Any) -> JSON:
        return None


class Talking(Agent):
    """Says {"times"} that it thinks, and returns how many microseconds each took."""

    name = "bench-talking"

    async def run(self, context: RunContext, input: Any) -> JSON:
        begin = time.perf_counter()
        for _ in range(input["times"]):
            await context.emit.thinking("on")
        return (time.perf_counter() - begin) / input["times"] * 1e6


class Sleeping(Agent):
    """Waits to be looked at."""

    name = "bench-sleeping"

    async def run(self, context: RunContext, input: Any) -> JSON:
        await asyncio.sleep(60)


AGENTS = (Idle, Talking, Sleeping)
