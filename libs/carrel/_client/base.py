"""What all groups of calls stand on. It knows no method of the API."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from carrel._calls import Caller
from carrel.api.gateway.v1 import gateway_service_pb2_grpc as rpc

JSON: TypeAlias = Any


class Calls:
    """A group of calls: the stub they are made on, and how they are made."""

    _stub: rpc.GatewayServiceAsyncStub
    _caller: Caller


async def listed(
    caller: Caller, method: Callable[..., Awaitable[Any]], request: Any, field: str
) -> AsyncGenerator[Any, None]:
    """Everything of a list; its pages are fetched as they are needed."""
    async for page in caller.pages(method, request):
        for entry in getattr(page, field):
            yield entry


def new_request_id(given: str | None) -> str:
    """The id that makes a call safe to repeat."""
    return str(uuid.uuid4()) if given is None else given


def to_json(value: JSON) -> str:
    """A JSON value as the messages hold it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A moment as the messages hold it; one without a time zone is refused with ValueError, because it could be any."""
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; say which, for example datetime.now(UTC)")
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message


def duration(span: timedelta | None) -> Duration | None:
    """A span of time as the messages hold it."""
    if span is None:
        return None
    message = Duration()
    message.FromTimedelta(span)
    return message
