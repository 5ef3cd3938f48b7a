"""Work that goes on beside the server: it ends with it, and takes it along when it fails. It knows nothing of what the work is."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from carrel_chassis.logs import get_logger


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that goes on for the length of the block, and is cancelled at its end."""
    task = asyncio.create_task(work)
    task.add_done_callback(_look_at)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _look_at(task: asyncio.Task[None]) -> None:
    """A process with a part that is silently gone is worse than one that is started again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        get_logger().error("work.died", error=repr(error), exc_info=error)
        signal.raise_signal(signal.SIGTERM)
