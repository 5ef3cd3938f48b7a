"""What a user, and a tenant, may use up in a minute, in all processes together: calls, bytes, seconds of CPU.

A process takes a share of the minute at a time, a twentieth, and counts it down by itself: with a limit of 600 calls one statement pays
for 30. What a process has taken and does not use is lost to the others for the rest of the minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import text

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext

CALLS = "tool_calls_per_minute"
_SHARES = 20
_MINUTE_SECONDS = 60.0
_MOST_REMEMBERED = 10_000

Owner = tuple[str, str]
"""A tenant and a user; the user "" stands for the whole tenant."""

# The minute is the database's, so that all processes mean the same one. What a crash of the database loses was at most two minutes' counts.
TAKE = text("""
    WITH clock AS (SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8) AS seconds),
    minute AS (SELECT CAST(floor(seconds / 60) AS bigint) AS number, 60 - (seconds - 60 * floor(seconds / 60)) AS seconds_left FROM clock)
    INSERT INTO tool_pace AS pace (tenant_id, user_id, limit_name, minute, taken)
    SELECT :tenant_id, :user_id, :limit_name, number, :amount FROM minute
    ON CONFLICT (tenant_id, user_id, limit_name) DO UPDATE SET minute = excluded.minute,
        taken = CASE WHEN pace.minute = excluded.minute THEN pace.taken + excluded.taken ELSE excluded.taken END
    RETURNING taken, (SELECT seconds_left FROM minute), set_config('synchronous_commit', 'off', true)
""")


@dataclass(slots=True)
class _Share:
    left: int
    """Below 0 for what was used beyond the share: how much a call uses is known only afterwards."""
    end: float
    """By the process's clock: when the minute is over."""
    owed: int = 0
    """Of what was given out here without asking."""
    last: bool = False
    """There is no more this minute: then nobody has to ask again."""


class Shares:
    """The shares of one limit. `engine` logs in as the role that keeps the counts of all.

    With `unasked`, a process lets through the first share of a minute without asking, and counts it when it asks for the second: who
    uses little costs no statement, and a limit may be passed by a twentieth for each process.
    """

    def __init__(
        self, engine: Engine, limit: str, *, unasked: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._limit = limit
        self._unasked = unasked
        self._clock = clock
        self._shares: dict[Owner, _Share] = {}

    async def left(self, who: Owner, most: int) -> float | None:
        """None when something of the minute is left; else the seconds until the next. What is used is to be spent at once."""
        size = max(1, most // _SHARES)
        share = self._shares.get(who)
        if share is None or share.end <= self._clock():
            given = size if self._unasked else 0
            share = self._shares[who] = _Share(given, self._clock() + _MINUTE_SECONDS, given)
            self._forget()
        while share.left <= 0:
            if share.last:
                return max(0.0, share.end - self._clock())
            await self._take(who, share, most, size)
        return None

    def spend(self, who: Owner, amount: int) -> None:
        """Counts what was used; nothing where nothing was asked for."""
        if share := self._shares.get(who):
            share.left -= amount

    async def _take(self, who: Owner, share: _Share, most: int, size: int) -> None:
        owed, share.owed, share.left = share.owed - share.left, 0, 0
        values = {"tenant_id": who[0], "user_id": who[1], "limit_name": self._limit, "amount": owed + size}
        async with database_errors(), self._engine.connect() as connection:
            taken, seconds_left, _ = (await connection.execute(TAKE, values)).one()
        granted = max(0, min(size, most - (taken - size)))
        share.left += granted
        share.last = not granted
        share.end = self._clock() + float(seconds_left)

    def _forget(self) -> None:
        if len(self._shares) > _MOST_REMEMBERED:
            now = self._clock()
            self._shares = {who: share for who, share in self._shares.items() if share.end > now}


class Pace:
    """How many calls users and tenants may begin: not one more than the limit, however many processes there are."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._shares = Shares(engine, CALLS, clock=clock)

    async def take(self, user: UserContext) -> None:
        """Counts one call; raises LIMIT_EXCEEDED beyond the limits of the user's context, 0 for as many as they like."""
        await self._take(user.owner, user.limits.tool_calls_per_minute)
        await self._take((user.tenant_id, ""), user.tenant_limits.tool_calls_per_minute)

    async def _take(self, who: Owner, most: int) -> None:
        if not most:
            return
        seconds = await self._shares.left(who, most)
        if seconds is not None:
            message = f"You have begun {most} of these within a minute ({CALLS}), as many as may; try again later."
            raise _limit_exceeded(CALLS, str(most), message, seconds)
        self._shares.spend(who, 1)


class Meter:
    """What users use up: when a minute's is gone, nothing new is begun until the next.

    How much a call uses is known only afterwards, so that the last one may go beyond the limit. `parts` are counted for each whole: 1000
    for seconds counted by the millisecond. A limit of 0 is none.
    """

    def __init__(self, engine: Engine, limit: str, most: float, parts: int = 1) -> None:
        self._shares = Shares(engine, limit, unasked=True)
        self._limit = limit
        self._most = most
        self._parts = parts

    async def check(self, owner: Owner) -> None:
        """Raises LIMIT_EXCEEDED when the user has used up the minute."""
        if not self._most:
            return
        seconds = await self._shares.left(owner, int(self._most * self._parts))
        if seconds is not None:
            most = f"{self._most:g}"
            message = (
                f"Your tools have used {most} within a minute ({self._limit}), as much as they may; try again later."
            )
            raise _limit_exceeded(self._limit, most, message, seconds)

    def add(self, owner: Owner, amount: float) -> None:
        """Counts what a call has used; it is checked first."""
        self._shares.spend(owner, round(amount * self._parts))


def _limit_exceeded(limit: str, value: str, message: str, retry_seconds: float) -> CarrelError:
    return CarrelError(
        Kind.OVER_LIMIT,
        "LIMIT_EXCEEDED",
        message,
        metadata={"limit": limit, "value": value},
        retry_seconds=retry_seconds,
    )
