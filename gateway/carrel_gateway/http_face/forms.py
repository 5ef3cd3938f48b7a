"""The shapes of bodies and queries, made from the gateway's own messages: a field of a request is a member of the same name, and
`input_json` is `input`, any JSON. What has the right shape becomes the message."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

JSON_SUFFIX = "_json"


class Strict(BaseModel):
    """Takes what it names and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def form_of(
    name: str,
    descriptor: Any,
    without: Collection[str] = (),
    required: Collection[str] = (),
    renamed: Mapping[str, str] = MappingProxyType({}),
) -> type[BaseModel]:
    """The model of a message's fields but some. What may be absent has no default of its own: absent stays absent."""
    members: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.name not in without:
            member = renamed.get(field.name, field.name.removesuffix(JSON_SUFFIX))
            members[member] = (_type(field), ... if member in required else _DEFAULT)
    return create_model(name, __base__=Strict, **members)


def _undefault(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


_DEFAULT = Field(default=None, json_schema_extra=_undefault)


def to_message(values: Mapping[str, Any], kind: type[Message]) -> Message:
    """The message of values that a form has let through."""
    return ParseDict(_wire(kind.DESCRIPTOR, values), kind())


def _wire(descriptor: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The members as json_format wants them: JSON within texts, and nested messages the same."""
    wire: dict[str, Any] = {}
    for name, value in values.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            several = descriptor.fields_by_name[name + JSON_SUFFIX].is_repeated
            wire[name + JSON_SUFFIX] = [_text(one) for one in value] if several else _text(value)
        elif isinstance(value, Mapping):
            wire[name] = _wire(field.message_type, value)
        elif isinstance(value, list):
            wire[name] = [_wire(field.message_type, one) if isinstance(one, Mapping) else one for one in value]
        else:
            wire[name] = value
    return wire


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _type(field: FieldDescriptor) -> Any:
    one: Any = _one(field)
    return list[one] if field.is_repeated else one


def _one(field: FieldDescriptor) -> Any:
    if field.name == "input" + JSON_SUFFIX:
        return dict[str, Any]  # of a run: always an object
    if field.name.endswith(JSON_SUFFIX):
        return Any
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.message_type is not None:
        kind = field.message_type
        return _WELL_KNOWN.get(kind.full_name) or form_of(kind.name, kind)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _BYTES
    return _SCALARS[field.cpp_type]


def _enum(kind: Any) -> Any:
    """One of the names, which may be said without their common beginning and in small letters: `queued` is RUN_STATE_QUEUED."""
    names = tuple(value.name for value in kind.values)
    prefix = names[0].removesuffix("UNSPECIFIED")

    def whole(name: Any) -> Any:
        return prefix + name.upper() if isinstance(name, str) and not name.startswith(prefix) else name

    return Annotated[Literal[names], BeforeValidator(whole)]


def _timestamp(text: str) -> str:
    Timestamp().FromJsonString(text)  # raises ValueError
    return text


def _duration(text: str) -> str:
    Duration().FromJsonString(text)
    return text


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("this is no base64") from None
    return text


_WELL_KNOWN = {
    Timestamp.DESCRIPTOR.full_name: Annotated[
        str, AfterValidator(_timestamp), WithJsonSchema({"type": "string", "format": "date-time"})
    ],
    Duration.DESCRIPTOR.full_name: Annotated[
        str,
        AfterValidator(_duration),
        WithJsonSchema({"type": "string", "description": 'Seconds: "90s".', "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"}),
    ],
}
_BYTES = Annotated[
    str, AfterValidator(_base64), WithJsonSchema({"type": "string", "contentEncoding": "base64", "format": "byte"})
]
_SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_DOUBLE: float,
    FieldDescriptor.CPPTYPE_INT32: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)],
    FieldDescriptor.CPPTYPE_UINT32: Annotated[int, Field(ge=0, le=2**32 - 1)],
    FieldDescriptor.CPPTYPE_INT64: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)],
    FieldDescriptor.CPPTYPE_UINT64: Annotated[int, Field(ge=0, le=2**64 - 1)],
}
