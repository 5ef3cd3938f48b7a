"""What users want to be cancelled, as a table that every process reads: whoever executes such a call stops it.

The bus only says that there is something to read. Nobody can cancel a call over it, and without it a process looks every half second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import text

from carrel_chassis.bus import Bus
from carrel_chassis.db.engine import Connection, Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import UserContext
from carrel_chassis.logs import get_logger
from carrel_tools.in_flight import InFlight
from carrel_tools.repository import OWN

SUBJECT = "carrel.tool_cancels"
POLL_SECONDS = 0.5

_TOO_OLD = "create_time < now() - interval '1 minute'"
"""Longer than anybody waits: who asked has died, and a later call must not suffer for it."""

ADD_CANCEL = text(f"""
    WITH abandoned AS (DELETE FROM tool_cancel WHERE {OWN} AND {_TOO_OLD})
    INSERT INTO tool_cancel (tenant_id, user_id, cancel_id, tool_call_id)
    VALUES (:tenant_id, :user_id, :cancel_id, :tool_call_id)
    RETURNING cancel_id
""")
REMOVE_CANCEL = text(f"DELETE FROM tool_cancel WHERE {OWN} AND cancel_id = :cancel_id RETURNING heard")
HEAR_CANCELS = text(f"""
    UPDATE tool_cancel AS asked SET heard = true
    FROM unnest(CAST(:tenant_ids AS text[]), CAST(:user_ids AS text[]), CAST(:tool_call_ids AS text[]))
        AS mine (tenant_id, user_id, tool_call_id)
    WHERE (asked.tenant_id, asked.user_id, asked.tool_call_id) = (mine.tenant_id, mine.user_id, mine.tool_call_id)
        AND NOT {_TOO_OLD}
    RETURNING asked.tenant_id, asked.user_id, asked.tool_call_id
""")


async def add_cancel(session: Connection, user: UserContext, cancel_id: str, tool_call_id: str) -> None:
    """Asks whoever executes the call to stop it, until the request is removed."""
    values = {"tenant_id": user.tenant_id, "user_id": user.user_id}
    await session.execute(ADD_CANCEL, {**values, "cancel_id": cancel_id, "tool_call_id": tool_call_id})


async def remove_cancel(session: Connection, user: UserContext, cancel_id: str) -> bool:
    """Takes a request back; whether somebody who executes the call has heard it. If not, nobody will any more."""
    values = {"tenant_id": user.tenant_id, "user_id": user.user_id, "cancel_id": cancel_id}
    return bool((await session.execute(REMOVE_CANCEL, values)).scalar_one_or_none())


class CancelRequests:
    """Listens for requests that concern this process. `engine` logs in as the role that reads those of all users."""

    def __init__(self, engine: Engine, in_flight: InFlight, bus: Bus | None) -> None:
        self._engine = engine
        self._in_flight = in_flight
        self._bus = bus
        self._told = asyncio.Event()

    async def announce(self) -> None:
        """Tells every process, this one too, that there is a new request."""
        self._told.set()
        if self._bus is not None:
            await self._bus.publish(SUBJECT, b"")

    async def hear(self) -> None:
        """Stops the calls under way here that are to be cancelled. Without any under way it asks nobody."""
        keys = self._in_flight.keys
        if not keys:
            return
        tenant_ids, user_ids, tool_call_ids = map(list, zip(*keys, strict=True))
        values = {"tenant_ids": tenant_ids, "user_ids": user_ids, "tool_call_ids": tool_call_ids}
        async with database_errors(), self._engine.connect() as connection:
            rows = await connection.execute(HEAR_CANCELS, values)
        for row in rows:
            self._in_flight.stop((row.tenant_id, row.user_id, row.tool_call_id))

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Listens until the end of the block."""

        async def on_push(subject: str, payload: bytes) -> None:
            self._told.set()

        unsubscribe = await self._bus.subscribe(SUBJECT, on_push) if self._bus is not None else None
        task = asyncio.create_task(self._keep_hearing())
        try:
            yield
        finally:
            task.cancel()
            if unsubscribe is not None:
                await unsubscribe()

    async def _keep_hearing(self) -> None:
        """For ever: when told, and each POLL_SECONDS whether told or not."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._told.wait()
            self._told.clear()
            try:
                await self.hear()
            except (CarrelError, asyncpg.PostgresError) as error:
                get_logger().warning("tool_cancels.unheard", error=str(error) or type(error).__name__)
