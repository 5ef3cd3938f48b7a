"""Database sessions: each belongs to one user and one call, and is closed whatever happens. Agents and tools never get one."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from opentelemetry import metrics

from carrel_chassis.db.engine import CONNECTION_LOST, Connection, Engine
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext

_PASSING = (
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)
"""What PostgreSQL says while it starts, stops, has no room, or lets another transaction go first (classes 57, 53 and 40 of its error
codes): the same transaction may succeed a moment later."""


class SessionIsolationError(CarrelError):
    """A call asked for a second session while its first was open: a fault in the service, refused before it can mix anything."""

    def __init__(self, call_id: str) -> None:
        super().__init__(
            Kind.CONFLICT,
            "SESSION_ISOLATION",
            "The call has a database session open already.",
            metadata={"call_id": call_id},
        )


@dataclass(slots=True)
class SessionCounts:
    """What a process has done with its sessions."""

    opened: int = 0
    closed: int = 0
    open: int = 0
    most_open: int = 0


class UserSessions:
    """Opens sessions of a user engine: at most one per user and call, and a few at a time per user, so that none takes all."""

    def __init__(self, engine: Engine, *, per_user: int = 5, wait_seconds: float = 5.0) -> None:
        self.engine = engine
        self.counts = SessionCounts()
        self._per_user = per_user
        self._wait_seconds = wait_seconds
        self._open: set[tuple[str, str, str]] = set()
        self._turns: dict[tuple[str, str], asyncio.Semaphore] = {}
        self._interested: Counter[tuple[str, str]] = Counter()
        self._seconds = metrics.get_meter("carrel").create_histogram("carrel.db.session.duration", unit="s")

    @asynccontextmanager
    async def open(self, user: UserContext, call_id: str) -> AsyncIterator[Connection]:
        """A connection within one transaction of this user: committed at the end of the block, rolled back when it raises.

        `call_id` is the id of the call (or of the unit of work of a run) that the session is for. Raises SessionIsolationError for a
        second session of the same call, LIMIT_EXCEEDED when the user's other sessions take too long, UNAVAILABLE without a database.
        """
        key = (*user.owner, call_id)
        if key in self._open:
            raise SessionIsolationError(call_id)
        self._open.add(key)
        try:
            async with self._turn(user):
                begin = time.perf_counter()
                self._count(+1)
                try:
                    async with database_errors(), self.engine.begin(user) as connection:
                        yield connection
                finally:
                    self._count(-1)
                    self._seconds.record(time.perf_counter() - begin)
        finally:
            self._open.discard(key)

    def _count(self, change: int) -> None:
        counts = self.counts
        counts.open += change
        if change > 0:
            counts.opened += 1
            counts.most_open = max(counts.most_open, counts.open)
        else:
            counts.closed += 1

    @asynccontextmanager
    async def _turn(self, user: UserContext) -> AsyncIterator[None]:
        """Waits until the user has fewer than the allowed sessions open. The semaphore lives as long as somebody wants it."""
        owner = user.owner
        limit = user.limits.database_sessions or self._per_user
        turns = self._turns.setdefault(owner, asyncio.Semaphore(limit))
        self._interested[owner] += 1
        try:
            if turns.locked():
                await self._wait(turns, limit)
            else:
                await turns.acquire()
            try:
                yield
            finally:
                turns.release()
        finally:
            self._interested[owner] -= 1
            if not self._interested[owner]:
                del self._interested[owner], self._turns[owner]

    async def _wait(self, turns: asyncio.Semaphore, limit: int) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turns.acquire()
        except TimeoutError:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                f"You have {limit} database sessions at work; try again when some of your calls are done.",
                metadata={"limit": "database_sessions", "value": str(limit)},
                retry_seconds=1.0,
            ) from None


@asynccontextmanager
async def database_errors() -> AsyncIterator[None]:
    """Turns a database that cannot serve now into UNAVAILABLE; everything else is a fault of ours and passes."""
    try:
        yield
    except (*CONNECTION_LOST, *_PASSING) as error:
        raise _unavailable() from error


def _unavailable() -> CarrelError:
    return CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "The database does not answer; try again.", retry_seconds=1.0)
