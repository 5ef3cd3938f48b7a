"""A tool of your own. tool-dispatch loads it:

PYTHONPATH=examples CARREL_TOOL_MODULES=my_tool CARREL_AGENT_MODULES=my_agent carrel up
carrel run poet --input '{"subject": "the sea"}' --tenant acme --user ada
"""

from typing import Annotated

from pydantic import Field

import carrel
from carrel.tool import ToolFailure


# idempotent: running it again does no harm, so that a call that died half-way is repeated.
@carrel.tool(idempotent=True)
def count_words(text: Annotated[str, Field(max_length=10_000)]) -> dict[str, int]:
    """Counts the words of a text."""
    words = text.split()
    if not words:
        raise ToolFailure("TEXT_EMPTY", "The text has no words; give some.")
    return {"words": len(words)}


TOOLS = (count_words,)
