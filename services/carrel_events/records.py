"""Events between the API and the log: what a producer sends becomes what is kept, and what is kept becomes what readers see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from carrel.api.events.v1 import event_pb2 as pb
from carrel_chassis.errors import CarrelError, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_events.domain import Cursor, NewEvent
from carrel_events.sanitise import clean_json, clean_text

MAX_EVENTS = 1000
MAX_EVENT_BYTES = 256 * 1024

is_type = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII).fullmatch

_JSON_FIELDS = {"tool_executing": "arguments_json", "agent_completed": "result_json", "custom": "data_json"}
_TEXT_FIELDS = {
    "agent_thinking": ("text",),
    "tool_completed": ("error_message",),
    "agent_failed": ("reason", "message"),
    "agent_died": ("cause",),
    "run_cancelled": ("reason",),
    "progress_update": ("message",),
    "partial_result": ("delta", "text"),
}


def admit(sent: Sequence[pb.Event], user: UserContext, now: float) -> dict[str, pb.Event]:
    """The events as the log keeps them, by id, in order: checked, sanitised, and the run's whatever they say of themselves.

    An id that comes twice is taken once. Raises INVALID_ARGUMENT, INVALID_ID or TOO_LARGE with the field.
    """
    if not 1 <= len(sent) <= MAX_EVENTS:
        raise invalid("events", f"events has {len(sent)} entries; send 1 to {MAX_EVENTS}.")
    admitted: dict[str, pb.Event] = {}
    for number, event in enumerate(sent):
        _check(event, f"events[{number}]")
        admitted.setdefault(event.event_id, _own(event, user, now))
    return admitted


def to_new_event(event: pb.Event) -> NewEvent:
    """The event as the log takes it."""
    return NewEvent(
        event.event_id,
        event.type,
        event.create_time.ToDatetime(UTC),
        event.SerializeToString(deterministic=True),
        is_ephemeral(event),
        event.final,
    )


def is_ephemeral(event: pb.Event) -> bool:
    """Whether it is a delta: a piece of a text whose whole comes later, as an event of its own."""
    return bool(event.partial_result.delta) and not event.partial_result.text and not event.final


def to_cursor(position: Cursor) -> pb.Cursor:
    """The position as a message."""
    return pb.Cursor(epoch=position.epoch, offset=position.offset)


def _check(event: pb.Event, name: str) -> None:
    check_id(event.event_id, f"{name}.event_id")
    if not is_type(event.type):
        raise invalid(f"{name}.type", f"{name}.type is no event type; use 1 to 64 of a-z, 0-9 and _, a letter first.")
    if (size := event.ByteSize()) > MAX_EVENT_BYTES:
        raise _too_large(name, size)
    if event.HasField("create_time") and not _is_time(event):
        raise invalid(f"{name}.create_time", f"{name}.create_time is not a time between the years 1 and 9999.")


def _too_large(name: str, size: int) -> CarrelError:
    return invalid(name, f"{name} has {size} bytes; an event has at most {MAX_EVENT_BYTES}.", "TOO_LARGE")


def _is_time(event: pb.Event) -> bool:
    try:
        event.create_time.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _own(sent: pb.Event, user: UserContext, now: float) -> pb.Event:
    event = pb.Event()
    event.CopyFrom(sent)
    event.ClearField("cursor")
    event.tenant_id, event.user_id = user.owner
    event.thread_id, event.run_id, event.attempt = user.thread_id, user.run_id, user.attempt
    event.agent = sent.agent or user.agent
    if not sent.HasField("create_time"):
        event.create_time.FromDatetime(datetime.fromtimestamp(now, UTC))
    _sanitise(event)
    return event


def _sanitise(event: pb.Event) -> None:
    kind = event.WhichOneof("payload")
    if kind is None:
        return
    payload = getattr(event, kind)
    if field := _JSON_FIELDS.get(kind):
        setattr(payload, field, clean_json(getattr(payload, field)))
    for field in _TEXT_FIELDS.get(kind, ()):
        setattr(payload, field, clean_text(getattr(payload, field)))
