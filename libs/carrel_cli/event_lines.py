"""An event as a line for a person: when, which agent, what. It prints nothing."""

from __future__ import annotations

import json
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.events.v1.event_pb2 import Event
from carrel_cli.documents import parsed
from carrel_cli.output import one_line

Part = tuple[str, str]
"""A piece of a line and its style."""

_LONGEST = 120


def event_parts(event: Event) -> list[Part]:
    """The pieces of the line, each with its style."""
    return [
        (f"{event_time(event)}  ", "dim"),
        (f"{one_line(event.agent, 20):<13} ", "cyan"),
        (what(event), _style(event)),
    ]


def _style(event: Event) -> str:
    if event.type in ("agent_failed", "agent_died", "run_cancelled"):
        return "red"
    return "bold green" if event.final else ""


def event_time(event: Event) -> str:
    """The local time of day, to the millisecond."""
    # Not ToDatetime alone: it would be read as local time, which it is not.
    moment = event.create_time.ToDatetime(tzinfo=UTC).astimezone()
    return moment.strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def what(event: Event) -> str:
    """What happened, in a few words."""
    return one_line(_words(event), _LONGEST)


def _words(event: Event) -> str:
    match event.WhichOneof("payload"):
        case "run_queued":
            return "is accepted and waits for a worker"
        case "agent_started":
            parent = event.agent_started.parent_agent
            return f"begins for {parent}" if parent else "begins"
        case "agent_thinking":
            return event.agent_thinking.text
        case "tool_executing":
            return f"calls {event.tool_executing.tool} {_arguments(event.tool_executing.arguments_json)}"
        case "tool_completed":
            return _tool_completed(event)
        case "agent_completed":
            return "is done"
        case "progress_update":
            return _progress(event)
        case "partial_result":
            return event.partial_result.delta or event.partial_result.text
        case _:
            return _rarer(event)


def _rarer(event: Event) -> str:
    match event.WhichOneof("payload"):
        case "agent_failed":
            return f"failed: {event.agent_failed.message} [{event.agent_failed.reason}]"
        case "agent_died":
            return f"died: {event.agent_died.cause}"
        case "run_cancelled":
            reason = event.run_cancelled.reason
            return f"is cancelled: {reason}" if reason else "is cancelled"
        case "approval_requested":
            return f"waits for a person to approve {event.approval_requested.tool}"
        case "approval_resolved":
            return "is approved" if event.approval_resolved.approved else "is not approved"
        case "custom":
            return f"{event.custom.name} {event.custom.data_json}"
        case _:
            return event.type.replace("_", " ")


def _arguments(text: str) -> str:
    arguments = parsed(text)
    if not isinstance(arguments, dict):
        return text
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in arguments.items()
    )


def _tool_completed(event: Event) -> str:
    done = event.tool_completed
    if done.succeeded:
        return f"has the answer of {done.tool} after {done.duration_ms:,} ms"
    return f"has no answer of {done.tool}: {done.error_message}"


def _progress(event: Event) -> str:
    update = event.progress_update
    return f"{update.message} ({update.done:,} of {update.total:,})" if update.total else update.message


def moment(time: Timestamp) -> str:
    """The local date and time of day, for a table."""
    return time.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
