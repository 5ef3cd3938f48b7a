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
    """So many at a time in all, and fewer of each user; one more waits, so that no user can take everything."""

    def __init__(self, most: int, most_per_user: int) -> None:
        self._all = asyncio.Semaphore(most)
        self._most_per_user = most_per_user
        self._own: dict[Owner, asyncio.Semaphore] = {}
        self._interested: Counter[Owner] = Counter()

    @asynccontextmanager
    async def turn(self, owner: Owner) -> AsyncIterator[None]:
        """Waits for a turn and holds it for the block. The user's own turn comes first: waiting for it holds up nobody else."""
        own = self._own.setdefault(owner, asyncio.Semaphore(self._most_per_user))
        self._interested[owner] += 1
        try:
            async with own, self._all:
                yield
        finally:
            self._interested[owner] -= 1
            if not self._interested[owner]:
                del self._interested[owner], self._own[owner]
