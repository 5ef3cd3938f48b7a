"""A run that somebody watches: agent-execution is told so again and again, and does not cancel what is followed. It knows no face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from carrel.api.runs.v1 import run_service_pb2 as runs
from carrel_chassis.errors import CarrelError, Kind
from carrel_gateway.backends import FOLLOW, Backends

Context = Callable[[], Awaitable[bytes]]
"""The signed context of who watches, as it is now: a stream lives longer than one."""

_CALL_SECONDS = 5.0
_EARLY = 0.4
"""The share of the time that was granted after which it is asked for again: one lost call does no harm."""
_AGAIN_SECONDS = 1.0


async def followed(
    messages: AsyncGenerator[bytes, None], backends: Backends, run_id: str, context: Context
) -> AsyncGenerator[bytes, None]:
    """The same messages, with the run followed for as long as they are read.

    Who may no longer follow is told so instead of watching how the run is cancelled: when the watcher's credential has ended,
    this raises what their next call would be refused with.
    """
    following = asyncio.create_task(_follow(backends, run_id, context))
    try:
        while (message := await _next(messages, following)) is not None:
            yield message
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await messages.aclose()


async def _next(messages: AsyncGenerator[bytes, None], following: asyncio.Task[None]) -> bytes | None:
    """The next message, None after the last; raises what the following has ended with, when it failed."""
    coming = asyncio.create_task(_one(messages))
    try:
        while True:
            if following.done():
                following.result()
            if coming.done():
                return coming.result()
            pending = [task for task in (coming, following) if not task.done()]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _one(messages: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(messages, None)


async def _follow(backends: Backends, run_id: str, context: Context) -> None:
    """Returns when the run goes on without being followed, or is over."""
    request = runs.FollowRunRequest(run_id=run_id).SerializeToString()
    while True:
        try:
            encoded = await backends.send(FOLLOW, request, await context(), _CALL_SECONDS)
        except CarrelError as error:
            if error.kind not in (Kind.UNAVAILABLE, Kind.TIMEOUT):
                raise
            await asyncio.sleep(_AGAIN_SECONDS)
            continue
        answer = runs.FollowRunResponse.FromString(encoded)
        if not answer.HasField("next"):
            return
        await asyncio.sleep(answer.next.ToMilliseconds() / 1e3 * _EARLY)
