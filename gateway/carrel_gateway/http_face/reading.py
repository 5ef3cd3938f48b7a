"""What comes in over HTTP, checked: bodies, query parameters, cursors. What it takes is well formed; whether it makes sense is for
the services to say."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request

from carrel.api.events.v1.event_pb2 import Cursor
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_gateway.http_face.forms import Strict
from carrel_gateway.http_face.problems import HttpRefusal

MAX_JSON_BYTES = 1024 * 1024
MAX_JSON_DEPTH = 100
_MAX_UINT32 = 2**32 - 1
_MAX_UINT64 = 2**64 - 1
_POSITION = re.compile(r"(\d{1,20})-(\d{1,20})", re.ASCII).fullmatch

M = TypeVar("M", bound=BaseModel)


class NoQuery(Strict):
    """No parameters."""


class UploadQuery(Strict):
    """How an upload goes on that broke off, and what it must come to."""

    upload_id: str = ""
    offset: int = Field(default=0, ge=0, le=_MAX_UINT64)
    sha256: str = ""


class DownloadQuery(Strict):
    """Where a download goes on, and of which content."""

    offset: int = Field(default=0, ge=0, le=_MAX_UINT64)
    corpus_id: str = ""


class AfterQuery(Strict):
    """Where to begin: after an event id, "EPOCH-OFFSET"."""

    after: str = ""


class EventsQuery(AfterQuery):
    """Which events; `type` may be repeated."""

    run_id: str = ""
    thread_id: str = ""
    type: list[str] = Field(default_factory=list)


class EventPageQuery(EventsQuery):
    """Which page of events."""

    page_size: int = Field(default=0, ge=0, le=_MAX_UINT32)


def query(request: Request, model: type[M]) -> M:
    """The query parameters; unknown ones are refused, and repeated ones where one is meant."""
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        field = model.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise invalid(name, f"{name} is given more than once; give it once.")
        else:
            values[name] = value
    return _validated(model, values, strict=False)


async def json_body(request: Request, model: type[M], seconds: float, *, optional: bool = False) -> M:
    """The body as an object; raises a problem for what is too large, too slow, no JSON, or not what the path takes."""
    try:
        async with asyncio.timeout(seconds):
            raw = await _limited_body(request)
    except TimeoutError:
        raise HttpRefusal(408, f"The body did not arrive within {seconds:g} s.") from None
    if optional and not raw:
        return model()
    check_media_type(request, "application/json")
    return _validated(model, _parsed(raw), strict=True)


def media_type(request: Request) -> str:
    """The content type without its parameters; raises 415 when there is none."""
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not declared:
        raise HttpRefusal(415, "The content-type is missing; say what the body is.")
    return declared


def check_media_type(request: Request, wanted: str) -> None:
    """Raises 415 for any other content type."""
    if (declared := media_type(request)) != wanted:
        raise HttpRefusal(415, f"The content-type is {declared}; it must be {wanted}.")


async def _limited_body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_JSON_BYTES:
        raise _too_large()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> CarrelError:
    return CarrelError(
        Kind.OVER_LIMIT,
        "TOO_LARGE",
        f"The body has more than {MAX_JSON_BYTES} bytes; send less.",
        metadata={"max_bytes": str(MAX_JSON_BYTES)},
    )


def _parsed(raw: bytes) -> Any:
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        _check_depth(value)
        # A lone surrogate is no character: no text of a message could hold it.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("The body is not UTF-8.") from None
    except UnicodeEncodeError:
        raise _malformed("The body holds half of a surrogate pair, which is no character.") from None
    except RecursionError:
        raise _malformed(f"The body is nested deeper than {MAX_JSON_DEPTH} levels.") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"The body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except ValueError:
        raise _malformed("The body holds a number that JSON does not have, or one of too many digits.") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise RecursionError


def _malformed(message: str) -> CarrelError:
    return CarrelError(Kind.INVALID, "MALFORMED_REQUEST", message)


def _validated(model: type[M], values: Any, *, strict: bool) -> M:
    if not isinstance(values, dict):
        raise _malformed("The body is no JSON object.")
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        fields = {".".join(map(str, wrong["loc"])): _sentence(wrong["type"], wrong["msg"]) for wrong in error.errors()}
        message = "; ".join(f"{name}: {text}" for name, text in fields.items())
        raise CarrelError(Kind.INVALID, "INVALID_ARGUMENT", message, fields=fields) from None


def _sentence(kind: str, message: str) -> str:
    plain = {"extra_forbidden": "There is no such field here.", "missing": "This field is missing."}
    return plain.get(kind, f"{message}.")


def cursor(text: str, field: str = "after") -> Cursor | None:
    """The cursor of "EPOCH-OFFSET", None for an empty text; raises CURSOR_INVALID."""
    if not text:
        return None
    match = _POSITION(text)
    numbers = [int(number) for number in match.groups()] if match else []
    if not numbers or max(numbers) > _MAX_UINT64:
        raise invalid(field, f"{field} is no event id; use one as it came, EPOCH-OFFSET.", "CURSOR_INVALID")
    return Cursor(epoch=numbers[0], offset=numbers[1])
