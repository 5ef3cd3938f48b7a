"""How much of this process one user may have at a time. It knows no tool and no file."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from carrel_chassis.errors import CarrelError, Kind

Owner = tuple[str, str]


class Slots:
    """So many at a time for each user; one more is refused."""

    def __init__(self, limit: str, most: int) -> None:
        self._limit = limit
        self._most = most
        self._taken: Counter[Owner] = Counter()

    @contextmanager
    def take(self, owner: Owner) -> Iterator[None]:
        """Holds a slot for the block; raises LIMIT_EXCEEDED."""
        if self._taken[owner] >= self._most:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                f"You have {self._most} of these under way ({self._limit}); try again when one is done.",
                metadata={"limit": self._limit, "value": str(self._most)},
                retry_seconds=1.0,
            )
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]


class Turns:
    """So many at a time in all, and fewer of each user, who may hold so much memory with them; one more waits, so that no user can take
    everything."""

    def __init__(self, most: int, most_per_user: int, user_memory_mb: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_per_user = most_per_user
        self._user_memory_mb = user_memory_mb
        self._own: dict[Owner, _Own] = {}

    @asynccontextmanager
    async def turn(self, owner: Owner, memory_mb: int) -> AsyncIterator[None]:
        """Waits for a turn and holds it for the block. The user's own turn comes first: waiting for it holds up nobody else.

        Raises LIMIT_EXCEEDED for more memory than the user may ever have.
        """
        if memory_mb > self._user_memory_mb:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                f"This needs {memory_mb} MiB and you may have {self._user_memory_mb} at a time (sandbox_memory_mb); ask for less.",
                metadata={"limit": "sandbox_memory_mb", "value": str(self._user_memory_mb)},
            )
        own = self._own.setdefault(owner, _Own())
        own.interested += 1
        try:
            while own.turns >= self._most_per_user or own.memory_mb + memory_mb > self._user_memory_mb:
                await own.change()
            with own.held(memory_mb):
                async with self._all:
                    yield
        finally:
            own.interested -= 1
            if not own.interested:
                del self._own[owner]


class _Own:
    """The turns of one user. A call that needs much memory may be overtaken by smaller ones, but only of the same user."""

    def __init__(self) -> None:
        self.interested = 0
        self.turns = 0
        self.memory_mb = 0
        self._waiting: list[asyncio.Future[None]] = []

    @contextmanager
    def held(self, memory_mb: int) -> Iterator[None]:
        """Takes a turn and so much memory for the block."""
        self.turns += 1
        self.memory_mb += memory_mb
        try:
            yield
        finally:
            self.turns -= 1
            self.memory_mb -= memory_mb
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)

    async def change(self) -> None:
        """Waits until something is given back."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            self._waiting.remove(waiter)
