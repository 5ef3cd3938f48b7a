"""Deltas: pieces of a text for who reads now, in their place between the events, kept nowhere."""

from __future__ import annotations

import secrets

import grpc

from carrel.api.events.v1 import event_pb2 as pb
from carrel_events.deltas import Deltas
from carrel_events.frames import Frame
from tests.events.desk import Reader, Run, reader, replica, thought, thoughts
from tests.support.expect import refused
from tests.support.system import Person, System


def piece(delta: str, message_id: str = "message-7", text: str = "") -> pb.Event:
    partial = pb.PartialResult(message_id=message_id, delta=delta, text=text)
    return pb.Event(event_id=f"event-{secrets.token_hex(8)}", type="partial_result", partial_result=partial)


def frame(delta: str, message_id: str = "message-7") -> Frame:
    return Frame.of(piece(delta, message_id).SerializeToString())


def told(frames: list[Frame]) -> list[tuple[str, str]]:
    parts = [frame.event().partial_result for frame in frames]
    return [(part.message_id, part.delta) for part in parts]


async def test_deltas_come_live_in_their_place_and_are_not_kept(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    async with replica(system) as channel, reader(system, ada).stream() as here, Reader(channel, ada).stream() as there:
        await here.open()
        await there.open()
        answer = await run.append(thought("first"), piece("Hel"), piece("lo"), piece("", text="Hello"))
        assert (answer.appended, answer.last.offset) == (2, 2)
        for stream in (here, there):
            events = await stream.until_events(4)
            assert [event.partial_result.delta for event in events] == ["", "Hel", "lo", ""]
            assert [event.cursor.offset for event in events] == [1, 0, 0, 2]
            assert stream.position.offset == 2
    events = (await reader(system, ada).list()).events
    assert [event.partial_result.text for event in events] == ["", "Hello"]


async def test_deltas_are_their_owners_alone_and_are_sanitised(system: System, ada: Person, eve: Person) -> None:
    async with reader(system, ada).stream() as adas, reader(system, eve).stream() as eves:
        await adas.open()
        await eves.open()
        await (await Run.of(system, ada)).append(piece("Bearer abcdefgh12345678"))
        [event] = await adas.until_events(1)
        assert (event.user_id, event.partial_result.delta) == (ada.user_id, "[redacted]")
        await (await Run.of(system, eve)).append(thought("eve's own"))
        assert [event.user_id for event in await eves.until_events(1)] == [eve.user_id]


async def test_a_fenced_attempt_passes_nothing_on(system: System, ada: Person) -> None:
    old, new = [await Run.of(system, ada, "run-fenced", attempt=attempt) for attempt in (1, 2)]
    await new.append(thought())
    with refused(grpc.StatusCode.ABORTED, "STALE_ATTEMPT"):
        await old.append(piece("too late"))


def test_deltas_wait_in_order_for_the_event_before_which_they_came() -> None:
    deltas = Deltas(merges=False)
    for after, delta in ((1, "a"), (1, "b"), (3, "c")):
        deltas.put(after, frame(delta))
    assert told(deltas.take(2)) == [("message-7", "a"), ("message-7", "b")]
    assert told(deltas.take(3)) == []
    assert told(deltas.take(4)) == [("message-7", "c")]


def test_too_many_deltas_are_merged_by_message() -> None:
    deltas = Deltas(merges=True)
    for number in range(2000):
        deltas.put(0, frame("xy", f"message-{number % 2}"))
    merged = dict[str, str]()
    taken = deltas.take(1)
    for message_id, delta in told(taken):
        merged[message_id] = merged.get(message_id, "") + delta
    assert merged == {"message-0": "xy" * 1000, "message-1": "xy" * 1000}
    assert len(taken) < 1000


def test_without_merging_the_oldest_are_forgotten_and_memory_stays_small() -> None:
    deltas = Deltas(merges=False)
    for number in range(100):
        deltas.put(0, frame(f"{number:04}" * 1000))
    kept = told(deltas.take(1))
    assert sum(len(delta) for _, delta in kept) < 64 * 1024
    assert kept[-1][1].startswith("0099")


async def test_a_slow_reader_that_asked_to_be_waited_for_gets_everything(system: System, ada: Person) -> None:
    run = await Run.of(system, ada)
    async with (
        replica(system, slow_reader_seconds=0.2) as channel,
        Reader(channel, ada).stream(slow_reader=pb.SLOW_READER_COALESCE) as stream,
    ):
        await stream.open()
        for _ in range(8):
            await run.append(*(thought("x" * 200_000) for _ in range(10)))
        # The server's write has long been held back by now: eight times as much as it may send ahead.
        await run.append(*thoughts(3))
        events = await stream.until_events(83)
        assert [event.cursor.offset for event in events] == list(range(1, 84))
