"""Messages as JSON for people and browsers: proto field names, numbers as numbers, and JSON in text fields unpacked."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.responses import JSONResponse

from carrel.api.events.v1.event_pb2 import Cursor

_WIDE = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}
_SUFFIX = "_json"
_WELL_KNOWN = "google.protobuf."


def to_json(message: Message) -> dict[str, Any]:
    """The message as an object. A field `input_json` becomes `input`, an object; fields without a value have their default."""
    plain = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _mended(message.DESCRIPTOR, plain)


def _mended(descriptor: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """What json_format gives, with 64-bit numbers that are numbers and texts that hold JSON taken apart."""
    mended: dict[str, Any] = {}
    for name, value in plain.items():
        field = descriptor.fields_by_name[name]
        if field.cpp_type in _WIDE:
            mended[name] = int(value)
        elif name.endswith(_SUFFIX):
            mended[name.removesuffix(_SUFFIX)] = _parsed(value)
        elif field.message_type is None or field.message_type.full_name.startswith(_WELL_KNOWN):
            mended[name] = value
        elif isinstance(value, list):
            mended[name] = [_mended(field.message_type, entry) for entry in value]
        else:
            mended[name] = _mended(field.message_type, value)
    return mended


def _parsed(text: str) -> Any:
    if not text:
        return None
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return text


def position_text(cursor: Cursor) -> str:
    """A cursor as the id of a server-sent event, "EPOCH-OFFSET"."""
    return f"{cursor.epoch}-{cursor.offset}"


class ApiResponse(JSONResponse):
    """An answer in JSON; nobody between may keep what belongs to one user."""

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(content, status_code, {"cache-control": "no-store"})
