"""A tool of your own. tool-dispatch loads it:

PYTHONPATH=examples CARREL_TOOL_MODULES=my_tool CARREL_AGENT_MODULES=my_agent carrel up
carrel run poet --input '{"subject": "the sea"}' --tenant acme --user ada
"""

from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool, ToolFailure


class CountWords(Tool):
    """Counts the words of a text."""

    name: ClassVar = "count_words"
    description: ClassVar = "Counts the words of a text."
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 10_000}},
        "required": ["text"],
        "additionalProperties": False,
    }
    idempotent: ClassVar = True  # running it again does no harm, so that a call that died half-way is repeated

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        words = arguments["text"].split()
        if not words:
            raise ToolFailure("TEXT_EMPTY", "The text has no words; give some.")
        return {"words": len(words)}


TOOLS = (CountWords,)
