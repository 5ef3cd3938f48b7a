"""What a tool tells of its progress, on its way to the user: thinned, and named by its place in the run. It knows no stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from carrel.api.events.v1 import event_pb2 as pb
from carrel_execution.attempt import events

PAUSE_SECONDS = 0.5
"""At least so long between two events of one call: a tool may tell thousands of times, and each event stays in the log of its user."""

Tell = Callable[[str, int, int], Awaitable[None]]
"""Takes a message, how much is done, and of how much; 0 for what is not known."""


class ToolProgress:
    """A `Tell` for one call: the first that a tool says is told, then what it says after each pause. `emit` takes a place and an event."""

    def __init__(
        self,
        emit: Callable[[str, pb.ProgressUpdate], Awaitable[None]],
        key: str,
        tool_call_id: str,
        clock: Callable[[], float],
    ) -> None:
        self._emit = emit
        self._key = key
        self._tool_call_id = tool_call_id
        self._clock = clock
        self._told = 0
        self._next = float("-inf")

    async def __call__(self, message: str, done: int, total: int) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + PAUSE_SECONDS
        self._told += 1
        update = events.progress(message, done, total)
        update.tool_call_id = self._tool_call_id
        await self._emit(f"{self._key}.progress{self._told}", update)
