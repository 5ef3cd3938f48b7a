"""Limits: set for a user or a tenant, signed into contexts, and named when they refuse."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import grpc
import pytest
import pytest_asyncio

from carrel import Client
from carrel.api.context.v1 import directory_service_pb2 as pb
from carrel.api.context.v1 import user_context_pb2
from carrel.api.events.v1 import event_service_pb2, event_service_pb2_grpc
from carrel.api.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from carrel.errors import LimitExceeded
from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import ResourceLimits
from carrel_context.domain import limits_over, tighter
from carrel_tools.pace import Pace
from tests.support.directory import directory, operator
from tests.support.expect import eventually, refused, room_in_the_minute
from tests.support.system import Person, System


async def set_limits(system: System, tenant_id: str, user_id: str = "", **limits: int) -> pb.SetLimitsResponse:
    request = pb.SetLimitsRequest(
        tenant_id=tenant_id, user_id=user_id, limits=user_context_pb2.ResourceLimits(**limits)
    )
    return await directory(system).SetLimits(request, metadata=operator(system), timeout=5)


async def test_limits_are_signed_into_the_contexts(system: System, ada: Person) -> None:
    every = {name: number for number, name in enumerate(ResourceLimits.__slots__, 1)}
    await set_limits(system, ada.tenant_id, ada.user_id, **every)
    await set_limits(system, ada.tenant_id, running_runs=100)
    context = (await system.person(ada.tenant_id, ada.user_id)).context
    assert context.limits == ResourceLimits(**every)
    assert context.tenant_limits == ResourceLimits(running_runs=100)
    answer = await directory(system).GetLimits(
        pb.GetLimitsRequest(tenant_id=ada.tenant_id, user_id=ada.user_id), metadata=operator(system), timeout=5
    )
    assert answer.set.open_streams == answer.effective.open_streams == every["open_streams"]


async def test_a_new_limit_replaces_the_contexts_that_were_issued_before(system: System, ada: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        await client.start_run("sleeper", {"seconds": 30})
        await set_limits(system, ada.tenant_id, ada.user_id, queued_runs=1, running_runs=1)

        async def refused_start() -> LimitExceeded | None:
            try:
                await client.start_run("sleeper", {"seconds": 30})
            except LimitExceeded as error:
                return error
            return None

        refusal = await eventually(refused_start, seconds=2.0)
        assert refusal is not None
        assert refusal.metadata["limit"] == "queued_runs" and refusal.metadata["value"] == "1"
        assert refusal.retry_seconds


async def test_a_refusal_carries_the_limits_name_its_value_and_when_to_try_again(system: System, ada: Person) -> None:
    await set_limits(system, ada.tenant_id, ada.user_id, open_streams=1)
    person = await system.person(ada.tenant_id, ada.user_id)
    stub = event_service_pb2_grpc.EventServiceStub(system.peer("event-stream").channel)
    first = stub.Subscribe(event_service_pb2.SubscribeRequest(), metadata=person.metadata, timeout=20)
    await anext(aiter(first))
    second = stub.Subscribe(event_service_pb2.SubscribeRequest(), metadata=person.metadata, timeout=20)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await anext(aiter(second))
    first.cancel()
    assert refusal.error.metadata == {"limit": "open_streams", "value": "1"}
    assert refusal.error.retry_seconds is not None


async def test_limits_of_nobody_are_refused(system: System, ada: Person) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"):
        await set_limits(system, ada.tenant_id, "nobody-there", open_streams=1)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await set_limits(system, ada.tenant_id, ada.user_id, open_streams=2**32 - 1)
    assert refusal.error.fields.keys() == {"limits.open_streams"}


@pytest.mark.parametrize(("a", "b", "least"), [(0, 0, 0), (3, 0, 3), (0, 3, 3), (3, 5, 3), (5, 3, 3)])
def test_of_two_limits_the_smaller_holds_and_none_is_no_limit(a: int, b: int, least: int) -> None:
    assert tighter(ResourceLimits(a), ResourceLimits(b)) == ResourceLimits(least)
    assert limits_over(ResourceLimits(a), ResourceLimits(b)) == ResourceLimits(a or b)


async def execute(system: System, person: Person, step: str) -> None:
    context = await system.run_context(person, f"run-{step}")
    peer = system.peer("tool-dispatch", "agent-execution")
    stub = tool_service_pb2_grpc.ToolServiceStub(peer.channel)
    request = tool_service_pb2.ExecuteToolRequest(step_id=step, tool="echo", arguments_json='{"text": "x"}')
    await stub.ExecuteTool(request, metadata=peer.metadata(context), timeout=10)


async def test_tool_calls_a_minute_are_counted_for_a_user_and_for_a_tenant(system: System, ada: Person) -> None:
    await room_in_the_minute()
    await set_limits(system, ada.tenant_id, tool_calls_per_minute=3)
    await set_limits(system, ada.tenant_id, ada.user_id, tool_calls_per_minute=2)
    person, colleague = await system.person(ada.tenant_id, ada.user_id), await system.person(ada.tenant_id)
    for number in range(2):
        await execute(system, person, f"a-{number}")
    before = time.time()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await execute(system, person, "a-3")
    after = time.time()
    assert refusal.error.metadata == {"limit": "tool_calls_per_minute", "value": "2"}
    # What was left of the minute while the call was under way. The database tells the time in whole microseconds.
    assert refusal.error.retry_seconds is not None
    assert 60 - after % 60 <= refusal.error.retry_seconds <= 60 - before % 60 + 1e-5
    await execute(system, colleague, "b-1")
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await execute(system, colleague, "b-2")
    assert refusal.error.metadata["value"] == "3"


class Clock:
    """Seconds of a process, that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class DatabaseClock:
    """What `clock_timestamp()` says to those who look for it in the schema of this test first."""

    schema = "clock_of_a_test"

    def __init__(self, superuser: asyncpg.Connection) -> None:
        self._superuser = superuser

    async def set(self, moment: str) -> None:
        """Stands still at a moment, as PostgreSQL reads it, from now on."""
        await self._superuser.execute(f"""
            CREATE SCHEMA IF NOT EXISTS {self.schema};
            GRANT USAGE ON SCHEMA {self.schema} TO PUBLIC;
            CREATE OR REPLACE FUNCTION {self.schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql
                AS $$ SELECT timestamptz '{moment}' $$;
            """)


@pytest_asyncio.fixture
async def database_clock(system: System) -> AsyncIterator[DatabaseClock]:
    superuser = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    yield DatabaseClock(superuser)
    await superuser.execute(f"DROP SCHEMA IF EXISTS {DatabaseClock.schema} CASCADE")
    await superuser.close()


async def test_the_wait_is_exactly_what_is_left_of_the_minute(
    system: System, ada: Person, database_clock: DatabaseClock
) -> None:
    url = system.database_url("carrel_tools_keeper")
    keeper = cross_user_engine(f"{url}?search_path={DatabaseClock.schema},pg_catalog,tools", 2)
    clock = Clock()
    pace = Pace(keeper, clock)
    user = replace(ada.context, limits=ResourceLimits(tool_calls_per_minute=2))

    async def wait() -> float | None:
        """Begins a call; the seconds that it is told to wait, None when it may begin."""
        try:
            await pace.take(user)
        except CarrelError as refusal:
            return refusal.retry_seconds
        return None

    try:
        await database_clock.set("2030-01-01 10:20:47.25+00")
        assert [await wait() for _ in range(4)] == [None, None, 12.75, 12.75]
        clock.now += 5
        assert await wait() == 7.75
        clock.now += 7.75
        await database_clock.set("2030-01-01 10:21:00+00")
        assert [await wait() for _ in range(3)] == [None, None, 60]
    finally:
        await keeper.dispose()
