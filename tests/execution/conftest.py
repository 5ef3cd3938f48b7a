"""A database of its own for tests of the queue: in the shared system the workers would take what the tests put there."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest_asyncio
from sqlalchemy import text

from carrel_chassis.db.engine import Engine, cross_user_engine, user_engine
from carrel_chassis.db.migrate import migrate
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_chassis.stack import Stack, StackSettings
from carrel_execution.domain import FullQueue, QueueLimits, Run, StartRequest
from carrel_execution.queue import Queue
from carrel_execution.repository import Runs

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Desk:
    """One user before the tables of agent-execution, and the workers behind them."""

    sessions: UserSessions
    runner: Engine
    user: UserContext

    async def accept(
        self,
        request_id: str = "",
        *,
        limit: int = 1000,
        running_limit: int = 0,
        tenant_limits: tuple[int, int] = (0, 0),
        limit_time: datetime = NOW,
    ) -> Run | None:
        """The run, or None when a queue is full. `tenant_limits` are those on queued and running runs."""
        accepted = await self.try_accept(request_id, QueueLimits(limit, running_limit, *tenant_limits, limit_time))
        return None if isinstance(accepted, FullQueue) else accepted

    async def try_accept(self, request_id: str, limits: QueueLimits) -> Run | FullQueue:
        request = StartRequest(request_id or new_id("request"), "echo", "{}", "")
        async with self.sessions.open(self.user, new_id("call")) as connection:
            accepted = await Runs(connection, self.user).accept(
                request, new_id("run"), "thread-7", grant=b"grant", event=b"queued", limits=limits
            )
        return accepted if isinstance(accepted, FullQueue) else accepted[0]

    async def get(self, run_id: str) -> Run | None:
        async with self.sessions.open(self.user, new_id("call")) as connection:
            return await Runs(connection, self.user).get(run_id)

    async def cancel(self, run_id: str) -> Run | None:
        async with self.sessions.open(self.user, new_id("call")) as connection:
            return await Runs(connection, self.user).cancel(run_id, "enough", b"cancelled")

    async def counters(self) -> tuple[int, int]:
        """Running and queued, as the slot says; asserts that it says what the runs say."""
        values = {"tenant_id": self.user.tenant_id, "user_id": self.user.user_id}
        async with self.runner.begin() as connection:
            slot = (await connection.execute(_SLOT, values)).one()
            assert tuple(slot) == tuple((await connection.execute(_COUNT, values)).one())
            return (slot.running, slot.queued)

    async def tenant_counters(self) -> tuple[int, int]:
        """What the tenant's slot says is queued, and what the runs say is running; asserts that the first says what the runs say."""
        async with self.runner.begin() as connection:
            slot = (await connection.execute(_TENANT, {"tenant_id": self.user.tenant_id})).one()
            assert slot.counted == slot.queued
            return (slot.counted, slot.running)

    async def tenant_counters_of_all(self, *, counted: int) -> int:
        """How many runs of the tenant are queued; asserts that so many of them are counted so far."""
        async with self.runner.begin() as connection:
            slot = (await connection.execute(_TENANT, {"tenant_id": self.user.tenant_id})).one()
            assert slot.counted == counted
            return int(slot.queued)

    def colleague(self) -> Desk:
        """Another user of the same tenant at the same tables."""
        return Desk(self.sessions, self.runner, replace(self.user, user_id=f"user-{secrets.token_hex(6)}"))

    async def outbox(self) -> list[tuple[int, bytes]]:
        values = {"tenant_id": self.user.tenant_id, "user_id": self.user.user_id}
        async with self.runner.begin() as connection:
            return [tuple(row) for row in await connection.execute(_OUTBOX, values)]

    def worker(self, name: str = "") -> Queue:
        return Queue(self.runner, name or new_id("worker"))


_OWNER = "tenant_id = :tenant_id AND user_id = :user_id"
_SLOT = text(f"SELECT running, queued FROM user_slot WHERE {_OWNER}")
_COUNT = text(f"""
    SELECT count(*) FILTER (WHERE state IN ('RUNNING', 'CANCELLING')), count(*) FILTER (WHERE state = 'QUEUED')
    FROM run WHERE {_OWNER}
""")
_TENANT = text("""
    SELECT (SELECT queued FROM tenant_slot WHERE tenant_id = :tenant_id) AS counted,
           count(*) FILTER (WHERE state = 'QUEUED') AS queued, count(*) FILTER (WHERE state IN ('RUNNING', 'CANCELLING')) AS running
    FROM run WHERE tenant_id = :tenant_id
""")
_OUTBOX = text(f"SELECT position, event FROM outbox WHERE {_OWNER} ORDER BY run_id, position")


def new_user() -> UserContext:
    """A user of a tenant of their own."""
    return UserContext(
        context_id=new_id("ctx"),
        tenant_id=f"tenant-{secrets.token_hex(6)}",
        user_id=f"user-{secrets.token_hex(6)}",
        session_id="session-7",
        scopes=frozenset(),
        audiences=frozenset(),
        issue_time=0.0,
        expire_time=0.0,
        request_id="request-7",
    )


@pytest_asyncio.fixture(scope="session")
async def engines(tmp_path_factory) -> AsyncIterator[tuple[UserSessions, Engine]]:
    """The tables, without a service that works on them."""
    data_dir = tmp_path_factory.mktemp("queue") / "data"
    async with Stack(StackSettings(data_dir=data_dir, fast=True, only=())) as stack:
        await migrate(stack.database_url("carrel_migrator"), "carrel_execution")
        users = user_engine(stack.database_url("carrel_execution"), 8)
        runner = cross_user_engine(stack.database_url("carrel_execution_runner"), 8)
        yield UserSessions(users), runner
        await users.dispose()
        await runner.dispose()


@pytest_asyncio.fixture
async def desk(engines: tuple[UserSessions, Engine]) -> AsyncIterator[Desk]:
    """A new user; the queue is empty before and after."""
    desk = Desk(*engines, new_user())
    yield desk
    async with desk.runner.begin() as connection:
        await connection.execute(
            text("UPDATE run SET state = 'DEAD', worker = NULL, lease_until = NULL, finish_time = now()")
        )
        await connection.execute(text("UPDATE user_slot SET running = 0, queued = 0, counted = false"))
        await connection.execute(text("DELETE FROM outbox"))


@pytest_asyncio.fixture
async def other(desk: Desk) -> Desk:
    """Another user at the same tables."""
    return Desk(desk.sessions, desk.runner, new_user())
