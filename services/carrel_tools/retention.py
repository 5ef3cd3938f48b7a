"""Removes lines of the ledger that are older than they need to be, a few at a time, so that nobody waits for it."""

from __future__ import annotations

import asyncio

import asyncpg
from sqlalchemy import text

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger

_BATCH = 1000
_PAUSE_SECONDS = 0.05

# One process at a time; the others come again later.
_TURN = text("SELECT pg_try_advisory_xact_lock(7410002)")
REMOVE = text("""
    DELETE FROM tool_call WHERE (tenant_id, user_id, tool_call_id) IN (
        SELECT tenant_id, user_id, tool_call_id FROM tool_call
        WHERE create_time < now() - CAST(:seconds AS float8) * interval '1 second'
        LIMIT :count
    )
    RETURNING 1
""")


class LedgerRetention:
    """Keeps calls and decisions for so long. `engine` logs in as the role that may remove them, and reads nothing of them but their age."""

    def __init__(self, engine: Engine, keep_seconds: float) -> None:
        self._engine = engine
        self._keep_seconds = keep_seconds

    async def once(self) -> int:
        """Removes all that is old enough; returns how many lines that were."""
        removed = 0
        while True:
            async with database_errors(), self._engine.begin() as connection:
                if not (await connection.execute(_TURN)).scalar_one():
                    return removed
                batch = len(await connection.execute(REMOVE, {"seconds": self._keep_seconds, "count": _BATCH}))
            removed += batch
            if batch < _BATCH:
                return removed
            await asyncio.sleep(_PAUSE_SECONDS)

    async def keep_clean(self, interval_seconds: float) -> None:
        """For ever; runs as a task beside the server."""
        while True:
            try:
                if removed := await self.once():
                    get_logger().info("ledger.cleaned", lines=removed)
            except (CarrelError, asyncpg.PostgresError, OSError) as error:
                get_logger().warning("ledger.not_cleaned", error=str(error) or type(error).__name__)
            await asyncio.sleep(interval_seconds)
