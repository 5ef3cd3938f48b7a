"""Runs that are cancelled when nobody follows them: who follows says so in time, and a sweep ends what nobody has followed."""

from __future__ import annotations

import asyncio

from sqlalchemy import text

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import UserSessions, database_errors
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_chassis.logs import get_logger
from carrel_execution import domain
from carrel_execution.owner import owner_alone
from carrel_execution.runs.operations import Operations

REASON = "nobody follows it any more"
_BATCH = 100
_AT_ONCE = 4
"""Within the number of database sessions that a user may have."""
_INTERVAL_SECONDS = 1.0

OWN = "tenant_id = :tenant_id AND user_id = :user_id"
# Written only when the time is half over, however many follow and however often they say so.
FOLLOW = text(f"""
    WITH followed AS (
        UPDATE run SET follow_until = now() + make_interval(secs => :seconds)
        WHERE {OWN} AND run_id = :run_id AND state IN ('QUEUED', 'RUNNING', 'WAITING')
          AND follow_until < now() + make_interval(secs => :seconds) / 2
        RETURNING follow_until AS until
    )
    SELECT CASE WHEN state IN ('QUEUED', 'RUNNING', 'WAITING')
           THEN CAST(extract(epoch FROM coalesce(until, follow_until) - now()) AS float8) END AS seconds
    FROM run LEFT JOIN followed ON true WHERE {OWN} AND run_id = :run_id
""")
UNFOLLOWED = text("""
    SELECT tenant_id, user_id, run_id FROM run
    WHERE follow_until < now() AND state IN ('QUEUED', 'RUNNING', 'WAITING') ORDER BY follow_until LIMIT :count
""")


class Followers:
    """Who follows a run, as its user says; `seconds` is how long a run goes on without anybody."""

    def __init__(self, sessions: UserSessions, runner: Engine, runs: Operations, seconds: float) -> None:
        self._sessions = sessions
        self._runner = runner
        self._runs = runs
        self._seconds = seconds

    async def follow(self, user: UserContext, call_id: str, run_id: str) -> float | None:
        """For how many seconds the run goes on now; None when it does anyway, or is over. RUN_NOT_FOUND."""
        check_id(run_id, "run_id")
        values = {"tenant_id": user.tenant_id, "user_id": user.user_id, "run_id": run_id, "seconds": self._seconds}
        async with self._sessions.open(user, call_id) as connection:
            row = (await connection.execute(FOLLOW, values)).one_or_none()
        if row is None:
            raise domain.run_not_found(run_id)
        return None if row.seconds is None else max(0.0, row.seconds)

    async def run(self) -> None:
        """Cancels what nobody follows, for ever, each second."""
        while True:
            try:
                await self.cancel_unfollowed()
            except CarrelError as error:
                get_logger().warning("followers.wait", reason=error.reason)
            except Exception:
                get_logger().exception("followers.failed")
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def cancel_unfollowed(self) -> None:
        """Cancels what nobody follows now, as its user could: several processes may do so at once."""
        async with database_errors(), self._runner.connect() as connection:
            found = await connection.execute(UNFOLLOWED, {"count": _BATCH})
        turns = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(
            *(self._cancel(owner_alone(row.tenant_id, row.user_id), row.run_id, turns) for row in found)
        )

    async def _cancel(self, owner: UserContext, run_id: str, turns: asyncio.Semaphore) -> None:
        async with turns:
            await self._runs.cancel_run(owner, new_id("call"), run_id, REASON)
            get_logger().info("run.unfollowed", run_id=run_id)
