"""A database of its own for tests of the queue: in the shared system the workers would take what the tests put there."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest_asyncio
from sqlalchemy import text

from carrel_chassis.db.engine import Engine, cross_user_engine, user_engine
from carrel_chassis.db.migrate import migrate
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_chassis.stack import Stack, StackSettings
from carrel_execution.domain import ClaimedRun, Outcome, Run
from carrel_execution.queue.store import Expired, Queue
from carrel_execution.runs.repository import Runs
from carrel_execution.runs.start import Accepted, Offer, QueueLimits, Refusal, ServiceRules, StartRequest
from tests.support.system import System, test_settings

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RULES = ServiceRules(running=4, lease_seconds=30.0, disconnect_seconds=10.0, breaker_failures=5, breaker_seconds=30.0)
ACCEPT_VALUES = {
    **dict.fromkeys(("earliest_start_time", "deadline", "timeout_seconds", "follow_seconds"), None),
    **dict.fromkeys(("repeats_run_id", "schedule_id", "worker"), None),
    **{"own_thread": True, "busy_thread": "ENQUEUE", "priority": 0, "on_disconnect": "CONTINUE", "agent_version": ""},
    **{"queued_limit": 9, "running_limit": 0, "weight": 1, "default_running_limit": 4, "lease_seconds": 30.0},
    **{"tenant_queued_limit": 0, "tenant_running_limit": 0, "tenant_weight": 0, "limit_time": NOW},
    **{"breaker_failures": 5, "breaker_seconds": 30.0},
}
"""Values of the statement ACCEPT beside the run's own."""


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
        weight: int = 1,
        tenant_weight: int = 0,
        **wishes: Any,
    ) -> Run | None:
        """The run, or None when it is refused. `tenant_limits` are those on queued and running runs; `wishes` are of StartRequest."""
        limits = QueueLimits(limit, running_limit, *tenant_limits, limit_time, weight, tenant_weight)
        accepted = await self.try_accept(request_id, limits, **wishes)
        return None if isinstance(accepted, Refusal) else accepted.run

    async def start(self, **wishes: Any) -> Run:
        """A run of which it is known that it is accepted."""
        run = await self.accept(**wishes)
        assert run is not None
        return run

    async def try_accept(
        self,
        request_id: str,
        limits: QueueLimits,
        *,
        offer: Offer | None = None,
        rules: ServiceRules = RULES,
        **wishes: Any,
    ) -> Accepted | Refusal:
        request = StartRequest(request_id or new_id("request"), "echo", "{}", **wishes)
        async with self.sessions.open(self.user, new_id("call")) as connection:
            return await Runs(connection, self.user).accept(
                request, new_id("run"), grant=b"grant", event=b"queued", limits=limits, rules=rules, offer=offer
            )

    async def get(self, run_id: str) -> Run | None:
        async with self.sessions.open(self.user, new_id("call")) as connection:
            return await Runs(connection, self.user).get(run_id)

    async def cancel(self, run_id: str) -> Run | None:
        async with self.sessions.open(self.user, new_id("call")) as connection:
            found = await Runs(connection, self.user).cancel(run_id, "enough")
        return found[0] if found else None

    async def counters(self) -> tuple[int, int]:
        """Running and queued, as the slot says; asserts that it says what the runs say."""
        values = {"tenant_id": self.user.tenant_id, "user_id": self.user.user_id}
        async with self.runner.begin() as connection:
            slot = (await connection.execute(_SLOT, values)).one()
            assert tuple(slot) == tuple((await connection.execute(_COUNT, values)).one())
            return (slot.running, slot.queued)

    async def ready(self) -> int:
        """How many of the queued runs could be claimed now, as the slot says; `counters` asserts that the runs say so too."""
        values = {"tenant_id": self.user.tenant_id, "user_id": self.user.user_id}
        await self.counters()
        async with self.runner.begin() as connection:
            return int((await connection.execute(_SLOT, values)).one().ready)

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

    async def end(self, run: Run, outcome: Outcome) -> str:
        """Ends a run of this user as its worker does; returns what came of it."""
        held = Expired(*self.user.owner, run.run_id, run.agent, run.epoch, False, "", False, False)
        return (await self.worker().finish(held, outcome, [b"final"])).ended

    async def release(self, run: ClaimedRun) -> bool:
        """Lets a run wait for its user, as what parks it does."""
        values = {"tenant_id": run.tenant_id, "user_id": run.user_id, "run_id": run.run_id, "epoch": run.epoch}
        async with self.runner.begin() as connection:
            return bool((await connection.execute(_RELEASE, values)).scalar_one())

    async def put_event(self, run: Run, event: bytes) -> None:
        """Puts an event of a run into the outbox, as an answer does."""
        values = {"tenant_id": self.user.tenant_id, "user_id": self.user.user_id, "run_id": run.run_id, "event": event}
        async with self.sessions.open(self.user, new_id("call")) as connection:
            await connection.execute(_PUT_EVENT, values)

    async def go_on(self, run_id: str) -> bool:
        """Puts a waiting run of this user back into the queue, as an answer does."""
        values = {"tenant_id": self.user.tenant_id, "user_id": self.user.user_id, "run_id": run_id}
        async with self.sessions.open(self.user, new_id("call")) as connection:
            return bool((await connection.execute(_GO_ON, values)).scalar_one())

    def worker(self, name: str = "") -> Queue:
        return Queue(self.runner, name or new_id("worker"))


_OWNER = "tenant_id = :tenant_id AND user_id = :user_id"
_SLOT = text(f"SELECT running, queued, ready FROM user_slot WHERE {_OWNER}")
_COUNT = text(f"""
    SELECT count(*) FILTER (WHERE state IN ('RUNNING', 'CANCELLING')), count(*) FILTER (WHERE state = 'QUEUED'),
        count(*) FILTER (WHERE ready)
    FROM run WHERE {_OWNER}
""")
_RELEASE = text("SELECT release_run(:tenant_id, :user_id, :run_id, :epoch)")
_PUT_EVENT = text("SELECT put_events(:tenant_id, :user_id, :run_id, ARRAY[CAST(:event AS bytea)], interval '1 h')")
_GO_ON = text("SELECT requeue_waiting(:tenant_id, :user_id, :run_id)")
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
async def tables(tmp_path_factory) -> AsyncIterator[Stack]:
    """The tables, without a service that works on them."""
    data_dir = tmp_path_factory.mktemp("queue") / "data"
    async with Stack(StackSettings(data_dir=data_dir, fast=True, only=())) as stack:
        await migrate(stack.database_url("carrel_migrator"), "carrel_execution")
        yield stack


@pytest_asyncio.fixture(scope="session")
async def engines(tables: Stack) -> AsyncIterator[tuple[UserSessions, Engine]]:
    users = user_engine(tables.database_url("carrel_execution"), 8)
    runner = cross_user_engine(tables.database_url("carrel_execution_runner"), 8)
    yield UserSessions(users), runner
    await users.dispose()
    await runner.dispose()


@pytest_asyncio.fixture(scope="session")
async def as_owner(tables: Stack) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Has the owner of the tables do something with them."""
    owner = cross_user_engine(tables.database_url("carrel_migrator"), 1)

    async def do(statement: str) -> None:
        async with owner.begin() as connection:
            await connection.execute(text("SET LOCAL search_path = execution"))
            await connection.execute(text(statement))

    yield do
    await owner.dispose()


@pytest_asyncio.fixture
async def desk(engines: tuple[UserSessions, Engine]) -> AsyncIterator[Desk]:
    """A new user; the queue is empty before and after."""
    desk = Desk(*engines, new_user())
    yield desk
    async with desk.runner.begin() as connection:
        await connection.execute(
            text("""
                UPDATE run SET state = 'DEAD', ready = false, due_time = NULL, wait_time = NULL, worker = NULL, lease_until = NULL,
                    finish_time = now()
            """)
        )
        await connection.execute(text("UPDATE user_slot SET running = 0, queued = 0, ready = 0, counted = false"))
        await connection.execute(text("DELETE FROM outbox"))


@pytest_asyncio.fixture
async def other(desk: Desk) -> Desk:
    """Another user at the same tables."""
    return Desk(desk.sessions, desk.runner, new_user())


@pytest_asyncio.fixture(scope="session")
async def mortal(tmp_path_factory) -> AsyncIterator[System]:
    """A system whose execution process is killed, and replaced within seconds."""
    environment = {
        "CARREL_LEASE_SECONDS": "1.5",
        "CARREL_CANCEL_SECONDS": "0.5",
        "CARREL_POLL_SECONDS": "0.2",
        "CARREL_DRAIN_SECONDS": "0.2",
        "CARREL_EVENTS_PER_RUN": "2000",
        "CARREL_DELTAS_PER_RUN": "3000",
    }
    settings = test_settings(
        tmp_path_factory.mktemp("mortal") / "data",
        only=("context", "execution", "tools", "events"),
        service_environment=environment,
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()
