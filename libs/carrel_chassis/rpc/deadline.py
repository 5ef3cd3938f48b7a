"""Deadlines: every call has one. A missing or huge one is cut to the method's own; a stream ends at its greatest age."""

from __future__ import annotations

import asyncio

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.call import Call, Handler
from carrel_chassis.rpc.layer import Layer


class Deadline(Layer):
    """Ends calls that take too long. `default_seconds` holds for methods that state none, `stream_seconds` caps every stream."""

    def __init__(self, default_seconds: float, stream_seconds: float) -> None:
        self._default_seconds = default_seconds
        self._stream_seconds = stream_seconds

    def wrap(self, proceed: Handler) -> Handler:
        async def handle(call: Call) -> object:
            limit = call.policy.max_seconds or self._default_seconds
            if call.streaming:
                limit = min(limit, self._stream_seconds)
            asked = call.context.time_remaining()
            seconds = limit if asked is None else min(asked, limit)
            call.expire_time = asyncio.get_running_loop().time() + seconds
            if asked is not None and asked <= limit:
                return await proceed(call)  # gRPC itself cancels the handler when the caller's own deadline is over
            try:
                async with asyncio.timeout_at(call.expire_time) as scope:
                    return await proceed(call)
            except TimeoutError:
                if not scope.expired():
                    raise
                raise _too_late(call, limit) from None

        return handle


def _too_late(call: Call, limit: float) -> CarrelError:
    if call.streaming:
        return CarrelError(
            Kind.UNAVAILABLE,
            "UNAVAILABLE",
            "The stream has reached its greatest age; open it again after the last position.",
            metadata=call.progress,
        )
    return CarrelError(
        Kind.TIMEOUT,
        "DEADLINE_EXCEEDED",
        f"The call was not done in time; this method takes at most {limit:g} s.",
        metadata={"max_seconds": f"{limit:g}"},
    )
