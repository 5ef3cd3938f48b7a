"""Agents that try to keep something for the next run, for the tests of isolation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from carrel.agent import JSON, Agent, RunContext


class Hoarder(Agent):
    """Says what it finds on itself, then leaves something there."""

    name = "hoarder"
    kept: Any = None

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        found = {"kept": self.kept, "attributes": sorted(vars(self))}
        self.kept = input["secret"]
        self.context = context
        await context.tools.call("echo", text=input["secret"])
        return {"found": found, "kept_now": self.kept, "instance": id(self)}


class Reader(Agent):
    """Counts the rows of the corpus "trace" through the user's own tools."""

    name = "reader"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        answer = await context.tools.call("sql_query", sql='SELECT count(*) AS rows, min(owner) AS owner FROM "trace"')
        return dict(zip(answer["columns"], answer["rows"][0], strict=True))


class Caller(Agent):
    """Calls a tool by the name it is given."""

    name = "caller"

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        return await context.tools.call(input["tool"], **input.get("arguments", {}))


AGENTS = (Hoarder, Reader, Caller)
