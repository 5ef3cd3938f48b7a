"""How many calls a user, and a tenant, may begin in a minute, in all processes together.

A process takes a share of the minute's calls at a time and counts it down by itself: with a limit of 600 one statement pays for 30 calls.
What a process has taken and does not use is lost to the others for the rest of the minute, a twentieth at most.
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

LIMIT = "tool_calls_per_minute"
_SHARES = 20
_MOST_REMEMBERED = 10_000

# The minute is the database's, so that all processes mean the same one. What a crash of the database loses was at most two minutes' counts.
TAKE = text("""
    WITH clock AS (SELECT CAST(extract(epoch FROM clock_timestamp()) AS float8) AS seconds),
    minute AS (SELECT CAST(floor(seconds / 60) AS bigint) AS number, 60 - (seconds - 60 * floor(seconds / 60)) AS seconds_left FROM clock)
    INSERT INTO tool_pace AS pace (tenant_id, user_id, minute, taken)
    SELECT :tenant_id, :user_id, number, :share FROM minute
    ON CONFLICT (tenant_id, user_id) DO UPDATE SET minute = excluded.minute,
        taken = CASE WHEN pace.minute = excluded.minute THEN pace.taken + excluded.taken ELSE excluded.taken END
    RETURNING taken, (SELECT seconds_left FROM minute), set_config('synchronous_commit', 'off', true)
""")


@dataclass(slots=True)
class _Share:
    left: int
    """-1 when there is no more this minute: then nobody has to ask again."""
    end: float
    """By the process's clock: when the minute is over."""


class Pace:
    """Counts the calls of users and tenants. `engine` logs in as the role that keeps the counts of all."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._shares: dict[tuple[str, str], _Share] = {}

    async def take(self, user: UserContext) -> None:
        """Counts one call; raises LIMIT_EXCEEDED beyond the limits of the user's context, 0 for as many as they like."""
        await self._take(user.owner, user.limits.tool_calls_per_minute)
        await self._take((user.tenant_id, ""), user.tenant_limits.tool_calls_per_minute)

    async def _take(self, who: tuple[str, str], most: int) -> None:
        if not most:
            return
        share = self._shares.get(who)
        now = self._clock()
        if share is None or share.end <= now or share.left == 0:
            share = await self._next_share(who, most)
        if share.left < 0:
            raise _limit_exceeded(most, max(0.0, share.end - now))
        share.left -= 1

    async def _next_share(self, who: tuple[str, str], most: int) -> _Share:
        size = max(1, most // _SHARES)
        values = {"tenant_id": who[0], "user_id": who[1], "share": size}
        async with database_errors(), self._engine.connect() as connection:
            taken, seconds_left, _ = (await connection.execute(TAKE, values)).one()
        granted = max(0, min(size, most - (taken - size)))
        share = _Share(granted or -1, self._clock() + float(seconds_left))
        self._shares[who] = share
        if len(self._shares) > _MOST_REMEMBERED:
            self._forget()
        return share

    def _forget(self) -> None:
        now = self._clock()
        for who in [who for who, share in self._shares.items() if share.end <= now]:
            del self._shares[who]


def _limit_exceeded(most: int, retry_seconds: float) -> CarrelError:
    return CarrelError(
        Kind.OVER_LIMIT,
        "LIMIT_EXCEEDED",
        f"You have begun {most} of these within a minute ({LIMIT}), as many as may; try again later.",
        metadata={"limit": LIMIT, "value": str(most)},
        retry_seconds=retry_seconds,
    )
