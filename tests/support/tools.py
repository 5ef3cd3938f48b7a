"""Tools for tests: one that waits, one whose effects can be counted, one that breaks. Loaded by CARREL_TOOL_MODULES."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Probe, Tool


class Sleep(Tool):
    """{"seconds", "key"?} → {"slept"}; tells that it has begun by a line with the key."""

    name: ClassVar = "sleep"
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"seconds": {"type": "number", "minimum": 0}, "key": {"type": "string"}},
        "required": ["seconds"],
    }
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        if "key" in arguments:
            await asyncio.to_thread(_append, Path(os.environ["CARREL_TEST_EFFECTS"]), f"{arguments['key']}\n")
        await asyncio.sleep(arguments["seconds"])
        return {"slept": arguments["seconds"]}


class Count(Tool):
    """{"key", "before"?, "seconds"?} → {"counted": key}: a pause, an effect (a line in the file CARREL_TEST_EFFECTS), a pause."""

    name: ClassVar = "count"
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {
            "key": {"type": "string"},
            "before": {"type": "number", "minimum": 0},
            "seconds": {"type": "number", "minimum": 0},
        },
    }

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        key = arguments.get("key", "")
        if "before" in arguments:
            await asyncio.sleep(arguments["before"])
        await asyncio.to_thread(_append, Path(os.environ["CARREL_TEST_EFFECTS"]), f"{key}\n")
        await asyncio.sleep(arguments.get("seconds", 0))
        return {"counted": key}


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


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


class Post(Tool):
    """{"key"} → {"posted": key}: the same effect, by a tool that can look whether it happened, and asks the user first if told so."""

    name: ClassVar = "post"
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {
            "key": {"type": "string"},
            "before": {"type": "number"},
            "after": {"type": "number"},
            "ask": {"type": "boolean"},
        },
        "required": ["key"],
    }
    verifies: ClassVar = True

    @classmethod
    def asks_approval(cls, arguments: Mapping[str, JSON]) -> bool:
        return bool(arguments.get("ask"))

    async def probe(self, arguments: Mapping[str, JSON], desk: Desk) -> Probe:
        if arguments["key"].startswith("unclear"):
            return Probe(None)
        path = Path(os.environ["CARREL_TEST_EFFECTS"])
        return Probe(arguments["key"] in await asyncio.to_thread(_lines, path), {"posted": arguments["key"]})

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        await asyncio.sleep(arguments.get("before", 0))
        await asyncio.to_thread(_append, Path(os.environ["CARREL_TEST_EFFECTS"]), f"{arguments['key']}\n")
        await asyncio.sleep(arguments.get("after", 0))
        return {"posted": arguments["key"]}


class NotJson(Tool):
    """Returns what JSON cannot say."""

    name: ClassVar = "not_json"
    arguments_schema: ClassVar = {"type": "object"}
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        return {"a": {1, 2}, "b": float("nan")}


class Dice(Tool):
    """Returns another text each time, and does no harm."""

    name: ClassVar = "dice"
    arguments_schema: ClassVar = {"type": "object"}
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        return secrets.token_hex(8)


class Walk(Tool):
    """{"steps", "seconds"?} → {"walked"}; tells of each step, then waits."""

    name: ClassVar = "walk"
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"steps": {"type": "integer"}, "seconds": {"type": "number", "minimum": 0}},
        "required": ["steps"],
    }
    tells_progress: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        for step in range(arguments["steps"]):
            desk.progress("x" * 1000, step + 1, arguments["steps"])
        await asyncio.sleep(arguments.get("seconds", 0))
        return {"walked": arguments["steps"]}


class Stubborn(Tool):
    """{"seconds"} → {"slept"}; goes on when it is to be ended, and then sleeps from the beginning."""

    name: ClassVar = "stubborn"
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"seconds": {"type": "number", "minimum": 0}},
        "required": ["seconds"],
    }
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        seconds = arguments["seconds"]
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(seconds)
        return {"slept": seconds}


TOOLS: tuple[type[Tool], ...] = (Sleep, Count, Crash, Huge, Post, NotJson, Dice, Walk, Stubborn)
