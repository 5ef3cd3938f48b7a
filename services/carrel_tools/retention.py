"""Removes what nobody needs any more, a few things at a time, so that nobody waits for it: old lines of the ledger, uploads broken off."""

from __future__ import annotations

import asyncio
from typing import Protocol

import asyncpg
from obstore.exceptions import BaseError as StoreError
from sqlalchemy import text

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_tools.corpus_store import PART_BYTES, CorpusStore

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
REMOVE_UPLOAD = text("""
    DELETE FROM corpus_upload WHERE (tenant_id, user_id, upload_id) IN (
        SELECT tenant_id, user_id, upload_id FROM corpus_upload
        WHERE create_time < now() - CAST(:seconds AS float8) * interval '1 second'
        LIMIT 1
    )
    RETURNING tenant_id, user_id, corpus_id, received_bytes
""")


class Retention(Protocol):
    """Something that is kept for so long."""

    async def once(self) -> int:
        """Removes all that is old enough; returns how much that was."""


class LedgerRetention:
    """Keeps calls and decisions for so long. `engine` logs in as the role that may remove them, and reads nothing of them but their age."""

    def __init__(self, engine: Engine, keep_seconds: float) -> None:
        self._engine = engine
        self._keep_seconds = keep_seconds

    async def once(self) -> int:
        """Returns how many lines there were."""
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


class UploadRetention:
    """Keeps uploads that have broken off for so long, whoever's they are; they take of their users' room until then."""

    def __init__(self, engine: Engine, store: CorpusStore, keep_seconds: float) -> None:
        self._engine = engine
        self._store = store
        self._keep_seconds = keep_seconds

    async def once(self) -> int:
        """Returns how many uploads there were."""
        removed = 0
        while True:
            # The row goes with the last of its parts: whatever happens between, somebody comes again. One more part may lie there than
            # is counted.
            async with database_errors(), self._engine.begin() as connection:
                found = (await connection.execute(REMOVE_UPLOAD, {"seconds": self._keep_seconds})).one_or_none()
                if found is None:
                    return removed
                size = found.received_bytes + PART_BYTES
                await self._store.remove((found.tenant_id, found.user_id), found.corpus_id, size)
            removed += 1


async def keep_clean(what: str, retention: Retention, interval_seconds: float) -> None:
    """For ever; runs as a task beside the server."""
    while True:
        try:
            if removed := await retention.once():
                get_logger().info("retention.removed", what=what, count=removed)
        except (CarrelError, asyncpg.PostgresError, StoreError, OSError) as error:
            get_logger().warning("retention.failed", what=what, error=str(error) or type(error).__name__)
        await asyncio.sleep(interval_seconds)
