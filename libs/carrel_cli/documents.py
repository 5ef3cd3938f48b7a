"""The messages of the API as JSON documents: names as in the protos, numbers as numbers, embedded JSON as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.events.v1.event_pb2 import Cursor, Event
from carrel.api.runs.v1.run_pb2 import Run

JSON = dict[str, Any]


def document(message: Message) -> JSON:
    """Any message: a field `x_json` becomes `x` with what it holds, an enum its name without prefix, an absent message is left out.

    Not protobuf's own JSON, which writes 64-bit numbers as strings and JSON as a string of JSON.
    """
    found: JSON = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.is_repeated:
            found[field.name] = [document(one) for one in value]
        elif field.message_type is not None:
            if message.HasField(field.name):
                known = isinstance(value, Timestamp | Duration)
                found[field.name] = value.ToJsonString() if known else document(value)
        elif field.is_repeated:
            found[field.name] = list(value)
        elif field.name.endswith("_json"):
            found[field.name.removesuffix("_json")] = parsed(value)
        else:
            found[field.name] = value if field.enum_type is None else _enum_name(field.enum_type.values, value)
    return found


def event_document(event: Event) -> JSON:
    """An event; `cursor` as `--after` takes it, the payload under `payload` whatever its type."""
    found = document(event)
    kind = event.WhichOneof("payload")
    payload = found.pop(kind) if kind else {}
    return {**found, "cursor": cursor_text(event.cursor), "offset": event.cursor.offset, "payload": payload}


def state_name(run: Run) -> str:
    """`SUCCEEDED`, `RUNNING`, ..."""
    return str(document(run)["state"])


def cursor_text(cursor: Cursor) -> str:
    """`EPOCH-OFFSET`."""
    return f"{cursor.epoch}-{cursor.offset}"


def parsed(text: str) -> Any:
    """The JSON value in a field; None when it is empty, the text itself when it is no JSON."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _enum_name(values: Sequence[Any], number: int) -> str:
    """The first name ends in UNSPECIFIED; what comes before it is the prefix of all. A later server's value keeps its number."""
    prefix: str = values[0].name.removesuffix("UNSPECIFIED")
    return next((str(value.name).removeprefix(prefix) for value in values if value.number == number), str(number))
