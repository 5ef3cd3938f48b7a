"""Opens the database of a service: the role is checked before anything else, the pool is closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from carrel_chassis.db.engine import Engine, cross_user_engine, user_engine
from carrel_chassis.db.roles import assert_unprivileged
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.settings import DatabaseSettings


@asynccontextmanager
async def user_sessions(settings: DatabaseSettings) -> AsyncIterator[UserSessions]:
    """Sessions of single users, under row-level security."""
    url = settings.database_url.get_secret_value()
    await assert_unprivileged(url)
    engine = user_engine(url, settings.database_pool_size)
    try:
        yield UserSessions(
            engine, per_user=settings.user_database_sessions, wait_seconds=settings.user_session_wait_seconds
        )
    finally:
        await engine.dispose()


@asynccontextmanager
async def cross_user_database(url: str, pool_size: int = 4) -> AsyncIterator[Engine]:
    """An engine for work across users, as a role that only the policies of single tables let do so."""
    await assert_unprivileged(url)
    engine = cross_user_engine(url, pool_size)
    try:
        yield engine
    finally:
        await engine.dispose()
