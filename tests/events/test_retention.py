"""Retention: what is old goes, what is kept stays without a gap, and who asks for what has gone is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest
import pytest_asyncio

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.stack import Stack
from carrel_events.retention import Retention
from carrel_events.settings import EventsSettings
from tests.events.desk import Run, offsets, reader, texts, thought, thoughts
from tests.support.expect import refused
from tests.support.system import Person, System, test_settings


@pytest_asyncio.fixture(scope="module")
async def old_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A system of its own: its segments are made old by hand, and its own retention looks at them only once a day."""
    settings = test_settings(
        tmp_path_factory.mktemp("old") / "data",
        only=("context", "events"),
        service_environment={"CARREL_RETENTION_INTERVAL_SECONDS": "86400"},
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


async def execute(system: System, statement: str) -> None:
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def retention(system: System, keep_events: int) -> AsyncIterator[Retention]:
    environment = system.stack.service_environment("events")
    told = {name.removeprefix("CARREL_").lower(): value for name, value in environment.items()}
    engine = cross_user_engine(system.database_url("carrel_events_retention"), 2)
    yield Retention(engine, EventsSettings(**{**told, "keep_events": keep_events}))
    await engine.dispose()


async def pass_a_day(system: System, keep_events: int) -> None:
    """All that is in the log is a day older, and retention has looked at it."""
    async with retention(system, keep_events) as keeper:
        for _ in range(2):  # once to begin another segment, once to empty the one that has then ended
            times = "begin_time = begin_time - interval '25 hours', end_time = end_time - interval '25 hours'"
            await execute(system, f"UPDATE events.segment SET {times} WHERE begin_time IS NOT NULL")
            await keeper.once()


async def test_a_day_later_the_last_events_are_kept_and_the_rest_is_truncated(old_system: System) -> None:
    ada, eve = await old_system.person(), await old_system.person()
    run = await Run.of(old_system, ada)
    last = (await run.append(*thoughts(10))).last
    await (await Run.of(old_system, eve)).append(*thoughts(2))
    await pass_a_day(old_system, keep_events=3)
    desk = reader(old_system, ada)
    assert offsets((await desk.list()).events) == [8, 9, 10]
    assert offsets((await reader(old_system, eve).list()).events) == [1, 2]
    assert offsets((await desk.list(after=event_pb2.Cursor(epoch=last.epoch, offset=7))).events) == [8, 9, 10]
    with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED") as refusal:
        await desk.list(after=event_pb2.Cursor(epoch=last.epoch, offset=6))
    assert refusal.error.metadata["oldest_offset"] == "8"
    with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED"):
        async with desk.stream(after=event_pb2.Cursor(epoch=last.epoch, offset=1)) as stream:
            await stream.open()

    assert (await run.append(thought("new"))).last.offset == 11
    await pass_a_day(old_system, keep_events=3)
    assert offsets((await desk.list()).events) == [9, 10, 11]


async def test_an_event_that_was_carried_over_is_not_added_again(old_system: System) -> None:
    ada = await old_system.person()
    run, event = await Run.of(old_system, ada), thought("once")
    await run.append(event)
    await pass_a_day(old_system, keep_events=3)
    assert (await run.append(event)).appended == 0


async def test_an_open_stream_goes_on_while_its_past_is_removed(old_system: System) -> None:
    ada = await old_system.person()
    run = await Run.of(old_system, ada)
    async with reader(old_system, ada).stream() as stream:
        await run.append(*thoughts(5))
        await stream.until_events(5)
        await pass_a_day(old_system, keep_events=0)
        await run.append(thought("after"))
        assert texts(await stream.until_events(6))[-1] == "after"
    assert texts((await reader(old_system, ada).list()).events) == ["after"]


async def erase(system: System, person: Person, identity: str = "operator") -> int:
    peer = system.peer("event-stream", identity)
    stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(peer.channel)
    request = pb.EraseUserRequest(tenant_id=person.tenant_id, user_id=person.user_id)
    return (await stub.EraseUser(request, metadata=peer.metadata(), timeout=10)).erased_events


async def test_erasing_a_user_removes_their_events_ends_their_streams_and_no_others(
    system: System, ada: Person, eve: Person
) -> None:
    run = await Run.of(system, ada)
    last = (await run.append(*thoughts(3))).last
    await (await Run.of(system, eve)).append(*thoughts(2))
    desk = reader(system, ada)
    async with desk.stream() as stream, reader(system, eve).stream() as eves:
        await stream.until_events(3)
        await eves.until_events(2)
        assert await erase(system, ada) == 3
        with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED"):
            await stream.message()
        await (await Run.of(system, eve)).append(thought("eve goes on"))
        assert texts(await eves.until_events(3))[-1] == "eve goes on"
    assert not (await desk.list()).events
    with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED"):
        await desk.list(after=last)
    begun = (await run.append(thought("anew"))).last
    assert begun.epoch > last.epoch and begun.offset == 1
    assert texts((await desk.list()).events) == ["anew"]


async def test_erasing_twice_or_nobody_is_no_error(system: System, ada: Person) -> None:
    assert await erase(system, ada) == 0
    await (await Run.of(system, ada)).append(thought())
    assert [await erase(system, ada), await erase(system, ada)] == [1, 0]


@pytest.mark.parametrize("identity", ["gateway", "agent-execution"])
async def test_only_the_operator_erases(system: System, ada: Person, identity: str) -> None:
    with refused(grpc.StatusCode.PERMISSION_DENIED, "SERVICE_NOT_ALLOWED"):
        await erase(system, ada, identity)
