"""Row-level security's one binding: every transaction of a user engine says whose it is, before any other statement."""

from __future__ import annotations

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from carrel_chassis.identity import UserContext

USER_OPTION = "carrel_user"

_BIND = "SELECT set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)"


class MissingUserContext(RuntimeError):
    """A transaction was begun on a user engine without saying for whom. Nothing has reached the database."""


def user_engine(url: str, pool_size: int) -> AsyncEngine:
    """An engine whose transactions see the rows of one user: of the UserContext in the connection's `carrel_user` option.

    The settings are local to the transaction: session-level settings would stay on the pooled connection for the next user.
    """
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=10.0)
    event.listen(engine.sync_engine, "begin", _bind)
    return engine


def cross_user_engine(url: str, pool_size: int) -> AsyncEngine:
    """An engine for work across users. Its login role must be one of those that the tables' policies name for it."""
    return create_async_engine(url, pool_size=pool_size, max_overflow=0, pool_timeout=10.0)


def _bind(connection: Connection) -> None:
    user = connection.get_execution_options().get(USER_OPTION)
    if not isinstance(user, UserContext):
        raise MissingUserContext("A transaction on a user engine needs the UserContext it is for.")
    connection.exec_driver_sql(_BIND, (user.tenant_id, user.user_id))
