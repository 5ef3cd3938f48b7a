"""The line between the service and the process of an agent: JSON messages with their length before them. It knows no agent."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from carrel.agent import AgentError, OutcomeUnknown, ToolError
from carrel_execution.domain import MAX_RESULT_BYTES, clean, from_json, to_json

MOST_BYTES = MAX_RESULT_BYTES + 64 * 1024
"""Of a message from an agent: a result, and what is said about it."""

_LENGTH = struct.Struct("!I")
_MOST_TEXT = 2000
_ERRORS: dict[str, type[AgentError]] = {kind.__name__: kind for kind in (AgentError, ToolError, OutcomeUnknown)}


class TooLong(Exception):
    """A message has more bytes than one may have."""


def packed(message: dict[str, Any]) -> bytes:
    """The message as it goes over the line; ValueError for what is no JSON."""
    raw = to_json(message).encode()
    return _LENGTH.pack(len(raw)) + raw


async def received(reader: asyncio.StreamReader, most_bytes: int = MOST_BYTES) -> dict[str, Any] | None:
    """The next message; None at the end of the line. Raises TooLong, and ValueError for what is no JSON object."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > most_bytes:
            raise TooLong(f"a message of {length} bytes; it may have {most_bytes}")
        message = from_json((await reader.readexactly(length)).decode())
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def error_out(error: AgentError) -> dict[str, Any]:
    """An error for the line."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS)
    return {
        "kind": kind,
        "reason": clean(getattr(error, "reason", ""), 64),
        "message": clean(getattr(error, "message", error), _MOST_TEXT),
        "retryable": bool(getattr(error, "retryable", False)),
    }


def error_in(said: dict[str, Any]) -> AgentError:
    """The error that the other side has raised."""
    kind = _ERRORS.get(str(said.get("kind")), AgentError)
    return kind(str(said.get("reason")), str(said.get("message")), retryable=said.get("retryable") is True)
