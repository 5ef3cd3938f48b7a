"""What runs in the crash demo: an agent that pays through a tool, and the tool, whose effect can be counted from outside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrel.agent import JSON, Agent, RunContext
from carrel.tool import Desk, Probe, Tool

MODULE = __name__
BOOK = "CARREL_DEMO_BOOK"
"""The environment variable with the file into which payments are written, a line each."""


class Payer(Agent):
    """Input {"payments": int}; result {"paid": the numbers of the payments}. It has not a line about crashes."""

    name = "demo_payer"
    description = "Makes payments one after the other, through the tool demo_pay."

    async def run(self, context: RunContext, input: Mapping[str, JSON]) -> JSON:
        total, paid = int(input["payments"]), []
        await context.emit.thinking(f"I shall make {total} payments.")
        for number in range(1, total + 1):
            await context.emit.progress("paying", number, total)
            paid.append((await context.tools.call("demo_pay", number=number))["paid"])
        return {"paid": paid}


class Pay(Tool):
    """{"number"} → {"paid"}: writes a line and then takes its time, so that a worker can die between the effect and the answer.

    It can look whether a payment was made, as real payment services can; so a call that died is neither lost nor made twice.
    """

    name: ClassVar = "demo_pay"
    description: ClassVar = "Makes a payment."
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"number": {"type": "integer"}},
        "required": ["number"],
        "additionalProperties": False,
    }
    verifies: ClassVar = True

    async def probe(self, arguments: Mapping[str, JSON], desk: Desk) -> Probe:
        happened = str(arguments["number"]) in payments(Path(os.environ[BOOK]))
        return Probe(happened, {"paid": arguments["number"]})

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        await asyncio.to_thread(_write, Path(os.environ[BOOK]), f"{arguments['number']}\n")
        await asyncio.sleep(0.4)
        return {"paid": arguments["number"]}


def _write(book: Path, line: str) -> None:
    with book.open("a") as file:
        file.write(line)


def payments(book: Path) -> list[str]:
    """The payments that were made, each as often as it was."""
    return book.read_text().split() if book.exists() else []


AGENTS = (Payer,)
TOOLS = (Pay,)
