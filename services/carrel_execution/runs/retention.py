"""Retention: runs that ended long ago are deleted, with all that is theirs, a few at a time. What is not over is never meant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import TextClause, text

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_execution.runs.statistics import MAX_DAYS

_BATCH = 500
_INTERVAL_SECONDS = 60.0
_PAUSE_SECONDS = 0.1
"""Between two batches: those who work come first."""

DELETE_ENDED_RUNS = text("SELECT delete_ended_runs(:before, :count)")
DELETE_STATISTICS = text("""
    WITH gone AS (
        DELETE FROM run_statistic
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM run_statistic WHERE day <= :day LIMIT :count)) RETURNING 1
    )
    SELECT CAST(count(*) AS integer) FROM gone
""")


class Retention:
    """Deletes what need not be kept, as a role that can do nothing else. `keep_runs_days` 0 keeps runs for ever."""

    def __init__(self, engine: Engine, *, keep_runs_days: float, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._keep_runs = timedelta(days=keep_runs_days)
        self._clock = clock

    async def run(self) -> None:
        """For ever, each minute."""
        while True:
            try:
                await self.once()
            except CarrelError as error:
                get_logger().warning("retention.waits", reason=error.reason)
            except Exception:
                get_logger().exception("retention.failed")
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def once(self) -> int:
        """Deletes all that is old enough now, in batches; returns how many runs that were."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        # Nobody can ask for these days any more.
        await self._delete(DELETE_STATISTICS, {"day": now.date() - timedelta(days=MAX_DAYS)})
        if not self._keep_runs:
            return 0
        deleted = await self._delete(DELETE_ENDED_RUNS, {"before": now - self._keep_runs})
        if deleted:
            get_logger().info("retention.deleted", runs=deleted)
        return deleted

    async def _delete(self, statement: TextClause, values: dict[str, object]) -> int:
        total = 0
        while True:
            async with database_errors(), self._engine.connect() as connection:
                deleted: int = (await connection.execute(statement, {**values, "count": _BATCH})).scalar_one()
            total += deleted
            if deleted < _BATCH:
                return total
            await asyncio.sleep(_PAUSE_SECONDS)
