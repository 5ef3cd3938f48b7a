"""How much of this process one user may have at a time. It knows no tool and no file."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from carrel_chassis.errors import CarrelError, Kind

Owner = tuple[str, str]
_MINUTE_SECONDS = 60.0
_MOST_REMEMBERED = 10_000


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


class Meter:
    """What each user has used up within a minute: when it is more than the limit, nothing new is begun until the minute is over.

    It is known only afterwards how much a call has used, so that the last one may go beyond the limit. Counted in this process alone.
    """

    def __init__(self, limit: str, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._most = most
        self._clock = clock
        self._used: dict[Owner, tuple[float, float]] = {}
        """The end of the minute, by the clock, and what was used in it."""

    def check(self, owner: Owner) -> None:
        """Raises LIMIT_EXCEEDED when the user has used up the minute; never where the limit is 0."""
        end, used = self._used.get(owner, (0.0, 0.0))
        left = end - self._clock()
        if self._most and left > 0 and used >= self._most:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                f"Your tools have used {self._most:g} within a minute ({self._limit}), as much as they may; try again later.",
                metadata={"limit": self._limit, "value": f"{self._most:g}"},
                retry_seconds=left,
            )

    def add(self, owner: Owner, amount: float) -> None:
        """Counts what a call has used."""
        if not self._most or not amount:
            return
        now = self._clock()
        end, used = self._used.get(owner, (0.0, 0.0))
        self._used[owner] = (end, used + amount) if end > now else (now + _MINUTE_SECONDS, amount)
        if len(self._used) > _MOST_REMEMBERED:
            self._used = {who: kept for who, kept in self._used.items() if kept[0] > now}


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
