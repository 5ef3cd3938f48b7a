"""The events of one attempt on their way to the user's log: in order, in batches, without slowing the agent. It knows no agent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from carrel.api.events.v1 import event_pb2 as pb
from carrel_execution.attempt.events import batches

_MOST_WAITING = 256
LINGER_SECONDS = 0.005
"""How long the first event of a batch waits for others. A short run then tells all that it has to tell in one append, which is one
commit and one call fewer; nobody sees five milliseconds."""

Send = Callable[[Sequence[pb.Event]], Awaitable[None]]


class Emitter:
    """Sends what has come in a few milliseconds as one batch, one batch after the other.

    `send` returns when the batch is in the log and raises when it never will be: then `on_failure` is told, and nothing more is sent.
    """

    def __init__(self, send: Send, on_failure: Callable[[Exception], None]) -> None:
        self._send = send
        self._on_failure = on_failure
        self._waiting: deque[pb.Event] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._sealed = False
        self._lingers = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send. What was emitted before is in the first batch."""
        self._task = asyncio.create_task(self._flush())

    def put(self, event: pb.Event) -> None:
        """Adds an event without waiting for room; for the few that a run itself makes."""
        self._waiting.append(event)
        self._news.set()

    async def emit(self, event: pb.Event) -> None:
        """Adds an event; waits while 256 others are not in the log yet, so that a run cannot fill the memory."""
        while len(self._waiting) >= _MOST_WAITING:
            self._room.clear()
            await self._room.wait()
        self.put(event)

    def seal(self) -> list[pb.Event]:
        """No further batch begins; returns what is not known to be in the log, in order, the batch under way included."""
        self._sealed = True
        return list(self._waiting)

    async def settle(self, seconds: float) -> list[pb.Event]:
        """Gives the batch under way so long to arrive, then lets it go; returns what is not known to be in the log."""
        self._sealed = True
        self._news.set()
        if self._task is not None:
            if not self._lingers:
                await asyncio.wait({self._task}, timeout=seconds)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        return list(self._waiting)

    async def _flush(self) -> None:
        try:
            while True:
                await self._news.wait()
                if not self._sealed:
                    self._lingers = True
                    await asyncio.sleep(LINGER_SECONDS)
                    self._lingers = False
                if self._sealed:
                    return
                batch = next(batches(self._waiting))
                await self._send(batch)
                for _ in batch:
                    self._waiting.popleft()
                self._room.set()
                if not self._waiting and not self._sealed:
                    self._news.clear()
        except Exception as error:
            self._on_failure(error)
