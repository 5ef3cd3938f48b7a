"""Nothing of another user passes, even when the bus or the log itself has been tampered with; and nothing of one's own is lost by it."""

from __future__ import annotations

import asyncpg
import nats

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel_chassis.identity import UserContext
from carrel_events.hub import subject_of
from carrel_events.tripwire import Tripwire
from tests.events.desk import Run, blocked_count, offsets, reader, texts, thought, thoughts
from tests.support.system import Person, System


async def forge(system: System, user: UserContext, *payloads: bytes) -> None:
    """Publishes on the user's subject what none of our services would."""
    connection = await nats.connect(system.stack.nats_url)
    for payload in payloads:
        await connection.publish(subject_of(user.owner), payload)
    await connection.flush()
    await connection.close()


def copy_of(owner: Person, epoch: int, offset: int, text: str) -> bytes:
    cursor = event_pb2.Cursor(epoch=epoch, offset=offset)
    event = thought(text, tenant_id=owner.tenant_id, user_id=owner.user_id, cursor=cursor)
    return pb.SubscribeResponse(events=[event], position=cursor).SerializeToString()


async def test_a_foreign_event_on_the_bus_is_stopped_counted_and_takes_no_place(
    system: System, ada: Person, eve: Person
) -> None:
    run, before = await Run.of(system, ada), await blocked_count(system)
    async with reader(system, ada).stream() as stream:
        epoch = (await run.append(thought("one"))).last.epoch
        await stream.until_events(1)
        await forge(system, ada.context, copy_of(eve, epoch, 2, "eve's secret"))
        await run.append(thought("two"))
        assert texts(await stream.until_events(2)) == ["one", "two"]
    assert await blocked_count(system) == before + 1


async def test_rubbish_on_the_bus_harms_no_stream(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    async with reader(system, ada).stream() as stream:
        epoch = (await run.append(thought("one"))).last.epoch
        await stream.until_events(1)
        rubbish = [
            b"\xff\xff not a message",
            b"",
            pb.SubscribeResponse(events=[event_pb2.Event()]).SerializeToString(),
            copy_of(ada, epoch, 2**64 - 1, "far away"),
            copy_of(ada, epoch, 17, "a hole that is none"),
            copy_of(ada, epoch + 5, 1, "another log"),
            copy_of(ada, epoch, 1, "long past"),
        ]
        await forge(system, ada.context, *rubbish)
        await run.append(*thoughts(2))
        assert texts(await stream.until_events(3)) == ["one", "thought 1", "thought 2"]
        await run.append(thought("still live"))
        assert offsets(await stream.until_events(4)) == [1, 2, 3, 4]


async def test_a_foreign_event_in_the_log_itself_is_stopped_before_the_wire(
    system: System, ada: Person, eve: Person
) -> None:
    run, before = await Run.of(system, ada), await blocked_count(system)
    await run.append(*thoughts(3))
    foreign = thought("eve's secret", tenant_id=eve.tenant_id, user_id=eve.user_id).SerializeToString()
    await _tamper(system, ada, 2, foreign)
    assert texts((await reader(system, ada).list()).events) == ["thought 1", "thought 3"]
    async with reader(system, ada).stream() as stream:
        assert texts(await stream.until_events(2)) == ["thought 1", "thought 3"]
        assert stream.position.offset == 3
    assert await blocked_count(system) == before + 2


async def _tamper(system: System, owner: Person, offset: int, body: bytes) -> None:
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:
        statement = "UPDATE events.event SET body = $1 WHERE tenant_id = $2 AND user_id = $3 AND log_offset = $4"
        assert await connection.execute(statement, body, owner.tenant_id, owner.user_id, offset) == "UPDATE 1"
    finally:
        await connection.close()


async def test_the_same_user_name_in_another_tenant_is_another_user(ada: Person) -> None:
    tripwire = Tripwire()
    namesake = thought(tenant_id="tenant-elsewhere", user_id=ada.user_id)
    own = thought(tenant_id=ada.tenant_id, user_id=ada.user_id)
    assert tripwire.own_events(ada.context, [namesake, own, thought()]) == [own]
    assert tripwire.blocked == 2
