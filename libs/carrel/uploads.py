"""Client streams that the other side may end early. It knows no method: calls and serialized messages only."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]


async def send_all(call: Any, messages: AsyncIterable[bytes]) -> None:
    """Sends serialized messages over a grpc.aio client stream, no faster than they are taken, and says that there are no more.

    Returns early when the other side has ended the call: `await call` then says how. The call must have a deadline.

    Written below `call.write()`: that one replaces the status which a server gave before the end of the stream by INTERNAL,
    nearly every time (https://github.com/grpc/grpc/issues/36066). The version of grpcio is pinned; a test holds this in place.
    """
    await call.wait_for_connection()
    try:
        async for message in messages:
            if call.done():
                return
            await call._cython_call.send_serialized_message(message)
        await call.done_writing()
    except cygrpc.InternalError:
        return  # what could not be sent was no longer wanted
