"""One run of one tool: whatever it does, it comes to an ending that the ledger can hold. It knows no ledger and no user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from carrel_chassis.logs import get_logger
from carrel_tools.domain import CANCELLED, MAX_JSON_BYTES, Ending, Outcome, sentence
from carrel_tools.in_flight import Stop
from carrel_tools.tool import JSON, Desk, Tool, ToolFailure


async def run_tool(
    tool: Tool, arguments: Mapping[str, JSON], desk: Desk, limit_seconds: float | None, stop: Stop
) -> Ending:
    """Executes the tool until it ends or is stopped, for at most `limit_seconds`; raises nothing but the cancellation of its caller."""
    if stop.asked:
        return _failed(CANCELLED, f"The call of {tool.name} was cancelled before the tool began.")
    try:
        async with asyncio.timeout(limit_seconds) as scope:
            with stop.ends(scope):
                result = await tool.execute(arguments, desk)
        return Ending(Outcome.SUCCEEDED, result_json=_result_json(result))
    except ToolFailure as failure:
        return _failed(failure.reason, failure.message)
    except Exception as error:
        if isinstance(error, TimeoutError) and scope.expired():
            return _stopped(tool) if stop.asked else _too_late(tool, limit_seconds)
        # Its text may hold anything; its type says where to look, and the log has the rest.
        get_logger().exception("tool.crashed", tool=tool.name)
        return _failed(
            "TOOL_CRASHED", f"The tool {tool.name} broke ({type(error).__name__}); its operator finds why in the log."
        )


async def probe_tool(
    tool: Tool, arguments: Mapping[str, JSON], desk: Desk, limit_seconds: float | None, stop: Stop
) -> Ending | None:
    """What a call that died came to, by the tool's own look; None when it had no effect and may run."""
    try:
        async with asyncio.timeout(limit_seconds) as scope:
            with stop.ends(scope):
                found = await tool.probe(arguments, desk)
        if found.happened is None:
            return Ending(Outcome.UNKNOWN)
        return Ending(Outcome.SUCCEEDED, result_json=_result_json(found.result)) if found.happened else None
    except Exception as error:
        if isinstance(error, TimeoutError) and stop.asked:
            return _stopped(tool)
        # It could not tell: then nobody knows, and the step is not run a second time.
        get_logger().exception("tool.probe_failed", tool=tool.name)
        return Ending(Outcome.UNKNOWN)


def _too_late(tool: Tool, limit_seconds: float | None) -> Ending:
    if not tool.idempotent:
        return Ending(Outcome.UNKNOWN)
    return _failed("TOOL_TIMEOUT", f"The tool {tool.name} was not done within {limit_seconds:g} s; ask for less.")


def _stopped(tool: Tool) -> Ending:
    """A tool that was ended at its work: what it may have done by then decides, not what was wanted."""
    message = f"The call of {tool.name} was cancelled while the tool was at work."
    if tool.idempotent:
        return _failed(CANCELLED, message)
    return Ending(Outcome.UNKNOWN, error_reason=CANCELLED, error_message=sentence(message))


def _failed(reason: str, message: str) -> Ending:
    return Ending(Outcome.FAILED, error_reason=sentence(reason), error_message=sentence(message))


def _result_json(result: JSON) -> str:
    text = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if (size := len(text.encode())) > MAX_JSON_BYTES:
        raise ToolFailure("TOO_LARGE", f"The result has {size} bytes; it may have {MAX_JSON_BYTES}: ask for less.")
    return text
