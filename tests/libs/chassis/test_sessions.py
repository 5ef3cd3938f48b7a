"""Database sessions on a real PostgreSQL: whose they are, how many there may be, and that none outlives its block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import TextClause, text

from carrel_chassis.db.engine import Connection, MissingUserContext, user_engine
from carrel_chassis.db.roles import UnsafeRole, assert_unprivileged
from carrel_chassis.db.sessions import SessionIsolationError, UserSessions
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import ResourceLimits, UserContext
from carrel_chassis.ids import new_id
from tests.libs.chassis.test_signing import context
from tests.support.system import System

WHO = text("SELECT pg_backend_pid(), current_setting('app.tenant_id', true), current_setting('app.user_id', true)")
ADD = text("INSERT INTO app_user (tenant_id, user_id, role) VALUES (:tenant_id, :user_id, 'standard')")
COUNT = text("SELECT count(*) FROM app_user")


@pytest_asyncio.fixture
async def sessions(system: System) -> AsyncIterator[UserSessions]:
    engine = user_engine(system.database_url("carrel_context"), pool_size=1)
    yield UserSessions(engine, per_user=2, wait_seconds=0.1)
    await engine.dispose()


def user() -> UserContext:
    return context(tenant_id=new_id("tenant"), user_id=new_id("user"))


async def add(connection: Connection, who: UserContext) -> None:
    await connection.execute(ADD, {"tenant_id": who.tenant_id, "user_id": who.user_id})


async def test_the_same_connection_serves_two_users_and_carries_nothing_over(sessions: UserSessions) -> None:
    seen = []
    for who in (user(), user()):
        async with sessions.open(who, "call-a") as connection:
            await add(connection, who)
        async with sessions.open(who, "call-b") as connection:
            pid, tenant_id, user_id = (await connection.execute(WHO)).one()
            assert (tenant_id, user_id) == who.owner
            assert (await connection.execute(COUNT)).scalar_one() == 1
            seen.append(pid)
    assert len(set(seen)) == 1, "the pool of one connection used two"


async def test_a_row_of_another_user_cannot_be_written(sessions: UserSessions) -> None:
    ada, eve = user(), user()
    for other in (eve, replace(ada, tenant_id=eve.tenant_id), replace(ada, user_id=eve.user_id)):
        with pytest.raises(Exception, match="row-level security"):
            async with sessions.open(ada, "call") as connection:
                await add(connection, other)


async def test_a_transaction_for_nobody_is_refused_before_any_statement(sessions: UserSessions) -> None:
    for attempt in (sessions.engine.begin(), sessions.engine.connect()):
        with pytest.raises(MissingUserContext):
            async with attempt as connection:
                await connection.execute(WHO)


async def test_a_second_session_of_the_same_call_is_refused(sessions: UserSessions) -> None:
    who = user()
    async with sessions.open(who, "call"):
        with pytest.raises(SessionIsolationError):
            async with sessions.open(who, "call"):
                raise AssertionError("two sessions of one call")


async def test_a_user_waits_for_a_turn_and_is_then_refused_with_the_limit(system: System) -> None:
    engine = user_engine(system.database_url("carrel_context"), pool_size=4)
    sessions = UserSessions(engine, per_user=2, wait_seconds=0.1)
    greedy, other = user(), user()
    async with sessions.open(greedy, "1"), sessions.open(greedy, "2"):
        with pytest.raises(CarrelError) as refusal:
            async with sessions.open(greedy, "3"):
                raise AssertionError("a third session")
        assert refusal.value.metadata == {"limit": "database_sessions", "value": "2"}
        async with sessions.open(other, "1"):
            assert sessions.counts.open == 3
    tight = replace(greedy, limits=ResourceLimits(database_sessions=1))
    async with sessions.open(tight, "4"):
        with pytest.raises(CarrelError):
            async with sessions.open(tight, "5"):
                raise AssertionError("more than the context allows")
    await engine.dispose()


async def test_every_session_is_closed_whatever_happens_in_it(sessions: UserSessions) -> None:
    who = user()

    async def fail() -> None:
        async with sessions.open(who, "failing") as connection:
            await add(connection, who)
            raise KeyError("a fault")

    async def hang(begun: asyncio.Event) -> None:
        async with sessions.open(who, "hanging") as connection:
            await add(connection, who)
            begun.set()
            await asyncio.Event().wait()

    with pytest.raises(KeyError):
        await fail()
    begun = asyncio.Event()
    task = asyncio.create_task(hang(begun))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with sessions.open(who, "after") as connection:
        assert (await connection.execute(COUNT)).scalar_one() == 0, "what was not committed is gone"
    assert (sessions.counts.open, sessions.counts.opened) == (0, sessions.counts.closed)


async def test_concurrent_users_never_see_each_other(system: System) -> None:
    engine = user_engine(system.database_url("carrel_context"), pool_size=3)
    sessions = UserSessions(engine)

    async def live(who: UserContext) -> None:
        async with sessions.open(who, "add") as connection:
            await add(connection, who)
        for turn in range(10):
            async with sessions.open(who, f"turn-{turn}") as connection:
                _, tenant_id, user_id = (await connection.execute(WHO)).one()
                assert (tenant_id, user_id) == who.owner
                assert (await connection.execute(COUNT)).scalar_one() == 1

    await asyncio.gather(*(live(user()) for _ in range(20)))
    assert sessions.counts.opened == sessions.counts.closed == 220
    await engine.dispose()


async def test_a_role_that_could_see_more_is_refused_at_the_start(system: System) -> None:
    await assert_unprivileged(system.database_url("carrel_context"))
    with pytest.raises(UnsafeRole, match="rolsuper"):
        await assert_unprivileged(system.database_url("postgres"))


def raising(condition: str) -> TextClause:
    """A statement that PostgreSQL itself refuses, by the name of the condition."""
    return text(f"DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{condition}'; END $$")


@pytest.mark.parametrize(
    "condition",
    "disk_full out_of_memory too_many_connections deadlock_detected serialization_failure query_canceled admin_shutdown".split(),
)
async def test_a_database_that_cannot_serve_now_is_unavailable(sessions: UserSessions, condition: str) -> None:
    with pytest.raises(CarrelError) as refusal:
        async with sessions.open(user(), "call") as connection:
            await connection.execute(raising(condition))
    assert (refusal.value.kind, refusal.value.reason) == (Kind.UNAVAILABLE, "UNAVAILABLE")


@pytest.mark.parametrize(
    "condition", ["unique_violation", "insufficient_privilege", "undefined_table", "raise_exception"]
)
async def test_a_fault_of_ours_is_not_taken_for_an_outage(sessions: UserSessions, condition: str) -> None:
    with pytest.raises(asyncpg.PostgresError, match="injected"):
        async with sessions.open(user(), "call") as connection:
            await connection.execute(raising(condition))


async def test_a_database_to_which_there_is_no_way_is_unavailable() -> None:
    engine = user_engine("postgresql+asyncpg://carrel_context:x@255.255.255.255:1/carrel", pool_size=1)
    with pytest.raises(CarrelError) as refusal:
        async with UserSessions(engine).open(user(), "call") as connection:
            await connection.execute(WHO)
    assert refusal.value.kind is Kind.UNAVAILABLE
    await engine.dispose()
