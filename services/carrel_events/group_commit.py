"""Group commit: appends that come while a commit is under way go together as the next one. It knows no SQL and no event."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger
from carrel_events.domain import Append, Appended

_BATCH_APPENDS = 100
_BATCH_EVENTS = 1000
_BATCH_BYTES = 4 * 1024 * 1024
_WAITING_PER_USER = 64
"""A run has one append under way at a time; whoever has more than this is not waiting for answers."""

Write = Callable[[Sequence[Append]], Awaitable[Sequence[Appended]]]
Publish = Callable[[Sequence[tuple[Append, Appended]]], Awaitable[None]]
_Waiting = tuple[Append, "asyncio.Future[Appended]"]


class GroupCommit:
    """Writes batches, one at a time, publishes what was written, and then says so to each that waits.

    Users take turns: one that floods waits behind itself. Within a user the order of arrival is the order in the log.
    """

    def __init__(self, write: Write, publish: Publish) -> None:
        self._write = write
        self._publish = publish
        self._waiting: dict[tuple[str, str], deque[_Waiting]] = {}
        self._news = asyncio.Event()

    async def append(self, append: Append) -> Appended:
        """Returns when the append is committed; whoever is cancelled does not know. Raises what the write raises, and LIMIT_EXCEEDED."""
        queue = self._waiting.setdefault(append.user.owner, deque())
        if len(queue) >= _WAITING_PER_USER:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                f"{_WAITING_PER_USER} of your appends wait already; wait for their answers.",
                metadata={"limit": "waiting_appends", "value": str(_WAITING_PER_USER)},
                retry_seconds=0.1,
            )
        done: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        queue.append((append, done))
        self._news.set()
        return await done

    async def run(self) -> None:
        """Commits for ever, as a task beside the server."""
        while True:
            await self._news.wait()
            batch = self._take()
            if batch:
                await self._commit(batch)

    def _take(self) -> list[_Waiting]:
        """The oldest append of each user, then the second of each, until the batch is full; users who got their turn go to the end."""
        batch: list[_Waiting] = []
        events = size = 0
        while self._waiting and len(batch) < _BATCH_APPENDS:
            owner, queue = next(iter(self._waiting.items()))
            append, done = queue[0]
            if batch and (events + len(append.sent) > _BATCH_EVENTS or size + append.size > _BATCH_BYTES):
                break
            queue.popleft()
            del self._waiting[owner]
            if queue:
                self._waiting[owner] = queue
            if not done.cancelled():
                batch.append((append, done))
                events, size = events + len(append.sent), size + append.size
        if not self._waiting:
            self._news.clear()
        return batch

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        try:
            written = await self._write([append for append, _ in batch])
        except CarrelError as error:
            self._fail(batch, error)
        except Exception as error:
            # One of them is such that the database refuses it. Each alone, so that only that one is told so.
            if len(batch) == 1:
                self._fail(batch, error)
                return
            for one in batch:
                await self._commit([one])
        else:
            await self._tell([(append, appended) for (append, _), appended in zip(batch, written, strict=True)])
            for (_, done), appended in zip(batch, written, strict=True):
                if not done.done():
                    done.set_result(appended)

    async def _tell(self, written: Sequence[tuple[Append, Appended]]) -> None:
        """What is committed is committed: readers find it in the log if this fails."""
        try:
            await self._publish(written)
        except Exception:
            get_logger().exception("events.not_published", appends=len(written))

    def _fail(self, batch: Sequence[_Waiting], error: Exception) -> None:
        for _, done in batch:
            if not done.done():
                done.set_exception(error)
