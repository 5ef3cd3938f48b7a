"""The way to PostgreSQL: a pool of connections, transactions bound to one user, statements. It knows no table.

Statements are SQLAlchemy's `text()`, compiled once; they run on asyncpg itself. Through SQLAlchemy's own connections a transaction of
one statement cost 435 us of CPU and 770 us, on asyncpg 42 and 73 (2 cores, loopback): at eight transactions a run, that is most of a run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import asyncpg
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from carrel_chassis.identity import UserContext

_BIND = "SELECT set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)"
_DIALECT: Any = dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are not typed
_ACQUIRE_SECONDS = 10.0
_ROLLBACK_SECONDS = 5.0
_DEAD_CONNECTIONS = 2
_BY_INDEX = {"enable_seqscan": "off", "jit": "off"}
"""Every statement has an index. Without this, one that is planned for a table that is still small, or whose statistics say so, reads
all of it, and goes on doing so while it grows: a plan is kept for as long as its connection. Before PostgreSQL 18 what is off and
cannot be avoided counts as costly, and what is costly is compiled, which takes longer than any of these statements."""
_IN_ORDER = {**_BY_INDEX, "enable_sort": "off"}
"""A user's lists have an index in their order, and most users have few rows: to gather and sort them looks as good to the planner, and
reads all that a user has for a page of one."""
CONNECTION_LOST = (
    ConnectionError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    # "cannot switch to state ...; another operation is in progress": a server that was killed between two messages.
    asyncpg.InternalClientError,
)
"""What asyncpg raises when the line to the database is gone."""


class MissingUserContext(RuntimeError):
    """A transaction was begun on a user engine without saying for whom. Nothing has reached the database."""


class Row(asyncpg.Record):  # type: ignore[misc]
    """A row: by position, by name, or by attribute."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Rows(list[Any]):
    """What a statement returned, in order; empty for a statement that returns nothing."""

    def all(self) -> list[Any]:
        """The rows."""
        return self

    def one(self) -> Any:
        """The only row; raises LookupError when there is none or another."""
        if len(self) != 1:
            raise LookupError(f"{len(self)} rows where there must be one")
        return self[0]

    def one_or_none(self) -> Any:
        """The only row, or None; raises LookupError when there is another."""
        return self.one() if self else None

    def scalar_one(self) -> Any:
        """The first value of the only row."""
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        """The first value of the only row, or None."""
        return self.one()[0] if self else None


class Connection:
    """A connection as repositories use it."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def execute(self, statement: TextClause, values: Mapping[str, Any] | None = None) -> Rows:
        """Runs one statement with its values by name."""
        sql, names = _compiled(statement)
        arguments = [values[name] for name in names] if values else ()
        return Rows(await self._raw.fetch(sql, *arguments, record_class=Row))


@lru_cache(maxsize=1024)
def _compiled(statement: TextClause) -> tuple[str, tuple[str, ...]]:
    """A statement as asyncpg takes it, with the names of its values in their order."""
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), tuple(compiled.positiontup or ())


async def _no_reset(_: Any) -> None:
    """What a pool does with a connection that comes back: nothing, for all settings here are local to their transaction.
    A test shows that a connection which has served one user carries nothing over to the next."""


class Engine:
    """A pool of connections of one login role. Made by `user_engine` and `cross_user_engine`."""

    def __init__(self, url: str, pool_size: int, *, for_users: bool) -> None:
        self._url = url.replace("postgresql+asyncpg://", "postgresql://")
        self._pool_size = pool_size
        self._for_users = for_users
        self._pool: Any = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def begin(self, user: UserContext | None = None) -> AsyncIterator[Connection]:
        """A connection within one transaction: committed at the end of the block, rolled back when it raises.

        This is the one place where row-level security learns whose transaction it is. The settings are local to the transaction:
        those of a session would stay on the pooled connection for the next user.
        """
        if self._for_users and not isinstance(user, UserContext):
            raise MissingUserContext("A transaction on a user engine needs the UserContext it is for.")
        raw = await self._begun()
        try:
            if user is not None:
                await raw.fetch(_BIND, user.tenant_id, user.user_id)
            yield Connection(raw)
            await raw.execute("COMMIT")
        except BaseException:
            await _roll_back(raw)
            raise
        finally:
            await self._pool.release(raw)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """A connection on which every statement is a transaction of its own. Not on user engines: it would be nobody's."""
        if self._for_users:
            raise MissingUserContext("A statement on a user engine needs a transaction, and the UserContext it is for.")
        raw = await self._acquire()
        try:
            yield Connection(raw)
        finally:
            await self._pool.release(raw)

    async def dispose(self) -> None:
        """Closes the pool and what is still open in it."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    async def _begun(self) -> Any:
        """A connection that has begun. One from the pool may be dead since the database restarted: then another is taken."""
        for dead in range(_DEAD_CONNECTIONS + 1):
            raw = await self._acquire()
            try:
                await raw.execute("BEGIN")
                return raw
            except BaseException as error:
                raw.terminate()
                await self._pool.release(raw)
                if dead == _DEAD_CONNECTIONS or not isinstance(error, CONNECTION_LOST):
                    raise
        raise AssertionError("unreachable")

    async def _acquire(self) -> Any:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    settings = _IN_ORDER if self._for_users else _BY_INDEX
                    self._pool = await asyncpg.create_pool(
                        self._url, min_size=0, max_size=self._pool_size, reset=_no_reset, server_settings=settings
                    )
        try:
            return await self._pool.acquire(timeout=_ACQUIRE_SECONDS)
        except TimeoutError:
            raise ConnectionError(f"none of {self._pool_size} connections was free in {_ACQUIRE_SECONDS:g} s") from None
        except OSError as error:
            # A name that is not known now, no route, no local port: whatever the reason, there is no connection.
            raise ConnectionError(str(error)) from error


async def _roll_back(raw: Any) -> None:
    """Ends a transaction that failed; a connection that cannot even do that is given up."""
    try:
        async with asyncio.timeout(_ROLLBACK_SECONDS):
            await raw.execute("ROLLBACK")
    except (*CONNECTION_LOST, TimeoutError, asyncpg.PostgresError):
        raw.terminate()


def user_engine(url: str, pool_size: int) -> Engine:
    """An engine whose transactions see the rows of one user. `url` may be in SQLAlchemy's form, `postgresql+asyncpg://...`."""
    return Engine(url, pool_size, for_users=True)


def cross_user_engine(url: str, pool_size: int) -> Engine:
    """An engine for work across users. Its login role must be one of those that the tables' policies name for it."""
    return Engine(url, pool_size, for_users=False)
