"""A run that somebody watches: agent-execution is told so again and again, and does not cancel what is followed. It knows no face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from carrel.api.runs.v1 import run_service_pb2 as runs
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger
from carrel_gateway.backends import FOLLOW, Backends

Context = Callable[[], Awaitable[bytes]]
"""The signed context of who watches, as it is now: a stream lives longer than one."""

_CALL_SECONDS = 5.0
_EARLY = 0.4
"""The share of the time that was granted after which it is asked for again: one lost call does no harm."""
_AGAIN_SECONDS = 1.0


@asynccontextmanager
async def following(backends: Backends, run_id: str, context: Context) -> AsyncIterator[None]:
    """Follows the run for as long as the block lasts. When the watcher's credential ends, so does the following."""
    task = asyncio.create_task(_follow(backends, run_id, context))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(backends: Backends, run_id: str, context: Context) -> None:
    request = runs.FollowRunRequest(run_id=run_id).SerializeToString()
    while True:
        try:
            encoded = await backends.send(FOLLOW, request, await context(), _CALL_SECONDS)
        except CarrelError as error:
            if error.kind not in (Kind.UNAVAILABLE, Kind.TIMEOUT):
                get_logger().info("run.not_followed", run_id=run_id, reason=error.reason)
                return
            await asyncio.sleep(_AGAIN_SECONDS)
            continue
        answer = runs.FollowRunResponse.FromString(encoded)
        if not answer.HasField("next"):
            return
        await asyncio.sleep(answer.next.ToMilliseconds() / 1e3 * _EARLY)
