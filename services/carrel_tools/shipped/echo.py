"""The tool that says what it is told: for trying a connection. It touches nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool


class Echo(Tool):
    """{"text"} → {"text"}."""

    name: ClassVar = "echo"
    description: ClassVar = "Returns the text it is given."
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        return {"text": arguments["text"]}
