"""Function tools for tests: a plain one, and two that run in the sandbox."""

from __future__ import annotations

import os

import carrel
from carrel.tool import ToolFailure


@carrel.tool(idempotent=True)
def shout(text: str) -> str:
    """Says it louder."""
    return f"{text.upper()}!"


@carrel.tool(idempotent=True, sandbox_level=2)
def escape(path: str) -> dict[str, object]:
    """Tries to read a file, and tells of its surroundings."""
    if not path:
        raise ToolFailure("PATH_EMPTY", "There is no path; give one.")
    try:
        with open(path) as file:
            read = file.read()
    except OSError as error:
        read = f"{type(error).__name__}: {error}"
    return {"environment": sorted(os.environ), "read": read}


@carrel.tool(idempotent=True, sandbox_level=1)
def die() -> None:
    """Ends its process."""
    os._exit(0)


TOOLS = (shout, escape, die)
