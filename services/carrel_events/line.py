"""A line to PostgreSQL: one connection of its own, opened when it is needed and again after it broke. It knows no table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from carrel_chassis.db.roles import assert_unprivileged
from carrel_chassis.errors import CarrelError, Kind

_SETTINGS = {
    # The few statements of a line have one good plan each, by index; one that was made for an empty table must not be kept.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_STATEMENT_SECONDS = 10.0
# InternalClientError: the server had hung up before the statement, and the driver was still reading its last words.
_GONE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
)


class Line:
    """One statement at a time, each a transaction of its own: a round trip, and no more. For roles that work across users."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def fetch(self, statement: str, *arguments: Any) -> Sequence[Any]:
        """The rows of a statement. Raises UNAVAILABLE without a database: then it is not known whether the statement was done."""
        try:
            async with self._turn:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self._url, timeout=5, server_settings=_SETTINGS)
                rows: Sequence[Any] = await self._connection.fetch(statement, *arguments, timeout=_STATEMENT_SECONDS)
                return rows
        except _GONE as error:
            self._forget()
            raise CarrelError(
                Kind.UNAVAILABLE, "UNAVAILABLE", "The database does not answer; try again.", retry_seconds=0.2
            ) from error

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Hangs up."""
        self._forget()


@asynccontextmanager
async def open_line(url: str) -> AsyncIterator[Line]:
    """A line as a role that owns nothing and that row-level security binds, until the end of the block."""
    await assert_unprivileged(url)
    line = Line(url)
    try:
        yield line
    finally:
        await line.close()
