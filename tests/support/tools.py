"""Tools for tests: one that waits, one whose effects can be counted, one that breaks. Loaded by CARREL_TOOL_MODULES."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool


class Sleep(Tool):
    """{"seconds"} → {"slept"}."""

    name: ClassVar = "sleep"
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"seconds": {"type": "number", "minimum": 0}},
        "required": ["seconds"],
    }
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        await asyncio.sleep(arguments["seconds"])
        return {"slept": arguments["seconds"]}


class Count(Tool):
    """{"key", "seconds"?} → {"counted": key}: an effect in the world, a line in the file CARREL_TEST_EFFECTS, then a pause."""

    name: ClassVar = "count"
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"key": {"type": "string"}, "seconds": {"type": "number", "minimum": 0}},
    }

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        key = arguments.get("key", "")
        await asyncio.to_thread(_append, Path(os.environ["CARREL_TEST_EFFECTS"]), f"{key}\n")
        await asyncio.sleep(arguments.get("seconds", 0))
        return {"counted": key}


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


class Crash(Tool):
    """Breaks, with a text that must not leave the process."""

    name: ClassVar = "crash"
    arguments_schema: ClassVar = {"type": "object"}
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        raise RuntimeError("a secret of the process")


class Huge(Tool):
    """Returns more than a result may be."""

    name: ClassVar = "huge"
    arguments_schema: ClassVar = {"type": "object"}
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        return "x" * (1024 * 1024)


TOOLS: tuple[type[Tool], ...] = (Sleep, Count, Crash, Huge)
