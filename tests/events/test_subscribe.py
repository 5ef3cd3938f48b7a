"""Streams: the log, then live, each event once and in order, and an end that says where to go on."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from carrel.api.events.v1 import event_pb2
from tests.events.desk import Reader, Run, offsets, reader, replica, texts, thought, thoughts
from tests.support.expect import eventually, refused
from tests.support.system import Person, System

Cursor = event_pb2.Cursor


async def test_a_stream_gives_the_log_and_then_what_happens(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    await run.append(*thoughts(3))
    async with reader(system, ada).stream() as stream:
        await stream.until_events(3)
        answer = await run.append(thought("live"))
        assert texts(await stream.until_events(4)) == ["thought 1", "thought 2", "thought 3", "live"]
        assert stream.position == answer.last


async def test_the_live_copy_of_an_event_equals_the_one_in_the_log(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    async with reader(system, ada).stream() as stream:
        await stream.open()
        await run.append(thought("first"))
        await stream.until_events(1)
        await run.append(*thoughts(2), thought("password=hunter2", agent="sub-agent", final=True))
        assert await stream.until_events(4) == list((await reader(system, ada).list()).events)


async def test_a_stream_waits_for_the_first_event_of_a_user(system: System, ada: Person) -> None:
    async with reader(system, ada).stream(after=Cursor()) as stream:
        await stream.open()
        assert stream.position == Cursor()
        await (await Run.of(system, ada)).append(*thoughts(2))
        assert offsets(await stream.until_events(2)) == [1, 2]


async def test_a_stream_resumes_after_its_cursor_at_any_replica(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    await run.append(*thoughts(4))
    async with reader(system, ada).stream() as stream:
        third = (await stream.until_events(4))[2]
    async with replica(system) as channel, Reader(channel, ada).stream(after=third.cursor) as resumed:
        await resumed.until_events(1)
        await run.append(thought("from the other replica"))
        assert texts(await resumed.until_events(2)) == ["thought 4", "from the other replica"]


async def test_readers_at_two_replicas_get_every_event_of_many_writers_once_and_in_order(
    system: System, ada: Person
) -> None:
    runs = [await Run.of(system, ada) for _ in range(3)]

    async def write(run: Run) -> None:
        for _ in range(15):
            await run.append(*thoughts(2))

    async with replica(system) as channel, reader(system, ada).stream() as here, Reader(channel, ada).stream() as there:
        await asyncio.gather(*(write(run) for run in runs), here.until_events(90), there.until_events(90))
        assert offsets(here.events) == offsets(there.events) == list(range(1, 91))


async def test_a_long_history_comes_in_messages_of_a_bounded_size(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    for _ in range(2):
        await run.append(*thoughts(700))
    await run.append(*(thought("x" * 200_000) for _ in range(12)))
    async with reader(system, ada).stream() as stream:
        events = await stream.until_events(1412)
        assert offsets(events) == list(range(1, 1413))
        assert all(len(m.events) <= 1000 and m.ByteSize() < 800_000 for m in stream.messages)
        assert all(m.position == m.events[-1].cursor for m in stream.messages if m.events)


async def test_a_filtered_stream_gives_what_is_wanted_and_moves_its_position_over_the_rest(
    system: System, ada: Person
) -> None:
    wanted, other = await Run.of(system, ada, "run-wanted"), await Run.of(system, ada, "run-other")
    await other.append(*thoughts(3))
    filter = {"run_id": "run-wanted"}
    async with replica(system, heartbeat_seconds=0.2) as channel, Reader(channel, ada).stream(filter=filter) as stream:
        assert (await stream.open()).position.offset == 3
        await wanted.append(thought("mine"))
        await other.append(*thoughts(2))
        await stream.until(lambda stream: stream.position.offset == 6)
        assert texts(stream.events) == ["mine"]


async def test_an_idle_stream_has_heartbeats_with_its_position(system: System, ada: Person) -> None:
    last = (await (await Run.of(system, ada)).append(*thoughts(2))).last
    async with replica(system, heartbeat_seconds=0.1) as channel, Reader(channel, ada).stream(after=last) as stream:
        await stream.until(lambda stream: len(stream.messages) == 4)
        assert [(list(m.events), m.position) for m in stream.messages] == [([], last)] * 4


async def test_without_a_bus_events_come_from_the_log(system: System, ada: Person) -> None:
    nowhere = "nats://nobody:nothing@127.0.0.1:1"
    async with (
        replica(system, nats_url=nowhere, disconnected_check_seconds=0.1) as channel,
        Reader(channel, ada).stream() as stream,
    ):
        await stream.open()
        await (await Run.of(system, ada)).append(*thoughts(3))
        assert offsets(await stream.until_events(3)) == [1, 2, 3]


async def test_what_the_bus_has_lost_is_read_from_the_log(system: System, ada: Person) -> None:
    nowhere = "nats://nobody:nothing@127.0.0.1:1"
    run = await Run.of(system, ada)
    async with replica(system, nats_url=nowhere) as mute, replica(system, idle_check_seconds=0.2) as channel:
        silent = run.at(mute)
        async with reader(system, ada).stream() as patient, Reader(channel, ada).stream() as curious:
            await patient.open()
            await curious.open()
            await silent.append(thought("no copy of this"))
            # An idle stream looks into the log by itself; the other one sees the hole before the next copy.
            assert offsets(await curious.until_events(1)) == [1]
            await run.append(thought("after it"))
            assert texts(await patient.until_events(2)) == ["no copy of this", "after it"]
            assert offsets(await curious.until_events(2)) == [1, 2]


CURSORS = {
    "another epoch": (lambda last: Cursor(epoch=last.epoch + 1, offset=1), "HISTORY_TRUNCATED"),
    "the future": (lambda last: Cursor(epoch=last.epoch, offset=last.offset + 1), "CURSOR_INVALID"),
}


@pytest.mark.parametrize(("cursor", "reason"), CURSORS.values(), ids=CURSORS)
async def test_a_cursor_that_cannot_be_honoured_is_refused(system: System, ada: Person, cursor, reason: str) -> None:
    last = (await (await Run.of(system, ada)).append(*thoughts(3))).last
    code = {"HISTORY_TRUNCATED": grpc.StatusCode.OUT_OF_RANGE, "CURSOR_INVALID": grpc.StatusCode.INVALID_ARGUMENT}
    with refused(code[reason], reason):
        async with reader(system, ada).stream(after=cursor(last)) as stream:
            await stream.open()


async def test_a_stream_ends_with_its_position_when_the_server_drains(system: System, ada: Person) -> None:
    last = (await (await Run.of(system, ada)).append(*thoughts(3))).last
    stop = asyncio.Event()
    async with replica(system, stop) as channel, Reader(channel, ada).stream() as stream:
        await stream.until_events(3)
        stop.set()
        with refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE") as refusal:
            await stream.message(seconds=1)
    assert refusal.error.metadata == {"epoch": str(last.epoch), "offset": "3"}


async def can_open(desk: Reader) -> bool:
    """Whether there is room for another stream."""
    try:
        async with desk.stream() as stream:
            return bool(await stream.open())
    except grpc.aio.AioRpcError:
        return False


async def test_a_reader_that_does_not_read_is_ended_with_a_position(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    for _ in range(8):
        await run.append(*(thought("x" * 200_000) for _ in range(10)))
    async with replica(system, slow_reader_seconds=0.3, open_streams_per_user=1) as channel:
        desk = Reader(channel, ada)
        async with desk.stream() as stream:
            await stream.open()
            # The write blocks once gRPC's buffers are full. That the server has given up shows by the room it makes.
            assert await eventually(lambda: can_open(desk))
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_READER") as refusal:
                await stream.until_events(81)
        after = stream.events[-1].cursor
        assert 0 < int(refusal.error.metadata["offset"]) <= after.offset < 80
    async with reader(system, ada).stream(after=after) as resumed:
        await resumed.until_events(80 - after.offset)
        assert offsets(stream.events + resumed.events) == list(range(1, 81))


async def test_a_user_has_so_many_streams_and_no_more(system: System, ada: Person, eve: Person) -> None:
    async with replica(system, open_streams_per_user=2) as channel:
        desk = Reader(channel, ada)
        async with desk.stream() as one:
            async with desk.stream() as two:
                await one.open()
                await two.open()
                with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
                    async with desk.stream() as three:
                        await three.open()
                assert refusal.error.metadata == {"limit": "open_streams", "value": "2"}
                assert await can_open(Reader(channel, eve))
            # A stream that its client left makes room.
            assert await eventually(lambda: can_open(desk))


async def test_a_stream_is_of_its_own_user_alone(system: System, ada: Person, eve: Person) -> None:
    colleague = await system.person(tenant_id=ada.tenant_id)
    run, theirs = await Run.of(system, ada, "run-of-ada"), await Run.of(system, colleague)
    async with (
        reader(system, eve).stream(filter={"run_id": "run-of-ada"}) as eves,
        reader(system, colleague).stream() as colleagues,
    ):
        await eves.open()
        await colleagues.open()
        last = (await run.append(*thoughts(5))).last
        await theirs.append(thought("the colleague's own"))
        assert texts(await colleagues.until_events(1)) == ["the colleague's own"]
        assert eves.events == []
    with refused(grpc.StatusCode.OUT_OF_RANGE, "HISTORY_TRUNCATED"):
        async with reader(system, eve).stream(after=last) as stream:
            await stream.open()
