"""Bad input, by table: a clear reason each, nothing lost, and nobody else affected."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel_chassis.stack.ports import free_ports
from tests.events.desk import Reader, Run, offsets, reader, replica, texts, thought, thoughts
from tests.support.expect import refused
from tests.support.system import Person, System

Cursor = event_pb2.Cursor
OUT_OF_RANGE, INVALID = grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INVALID_ARGUMENT
MALFORMED = "MALFORMED_REQUEST"

CURSORS: dict[str, tuple[Callable[[Cursor, Cursor], Cursor], grpc.StatusCode, str]] = {
    "of another user": (lambda own, others: others, OUT_OF_RANGE, "HISTORY_TRUNCATED"),
    "from the future": (lambda own, _: Cursor(epoch=own.epoch, offset=own.offset + 1), INVALID, "CURSOR_INVALID"),
    "far from the future": (lambda own, _: Cursor(epoch=own.epoch, offset=2**64 - 1), INVALID, "CURSOR_INVALID"),
    "of an epoch before": (lambda own, _: Cursor(epoch=own.epoch - 9, offset=1), OUT_OF_RANGE, "HISTORY_TRUNCATED"),
    "of an epoch to come": (lambda own, _: Cursor(epoch=2**64 - 1, offset=1), OUT_OF_RANGE, "HISTORY_TRUNCATED"),
    "of no epoch": (lambda own, _: Cursor(offset=1), OUT_OF_RANGE, "HISTORY_TRUNCATED"),
}


@pytest.mark.parametrize(("cursor", "code", "reason"), CURSORS.values(), ids=CURSORS)
async def test_a_cursor_that_is_none_is_refused_and_the_log_is_as_it_was(
    system: System, ada: Person, eve: Person, cursor: Any, code: grpc.StatusCode, reason: str
) -> None:
    own = (await (await Run.of(system, ada)).append(*thoughts(3))).last
    others = (await (await Run.of(system, eve)).append(*thoughts(2))).last
    # Two logs made in the same second have the same epoch: what tells them apart then is only whose stream it is.
    wrong = cursor(own, Cursor(epoch=others.epoch + 1, offset=others.offset))
    desk = reader(system, ada)
    with refused(code, reason):
        await desk.list(after=wrong)
    with refused(code, reason):
        async with desk.stream(after=wrong) as stream:
            await stream.open()
    assert offsets((await desk.list()).events) == [1, 2, 3]


RAW = {
    "no message": b"\xff\xff garbage",
    "a negative offset": pb.ListEventsRequest(after=Cursor(epoch=1)).SerializeToString()[:-1] + b"\x10" + b"\xff" * 10,
    "a cut message": pb.ListEventsRequest(after=Cursor(epoch=1, offset=5)).SerializeToString()[:-1],
    "a filter that is no text": b"\x12\x03\x12\x01\xff",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
async def test_bytes_that_are_no_request_are_refused_before_anything_reads_them(
    system: System, ada: Person, raw: bytes
) -> None:
    channel = system.peer("event-stream").channel
    for method, shape in (("ListEvents", channel.unary_unary), ("Subscribe", channel.unary_stream)):
        call = shape(f"/carrel.api.events.v1.EventService/{method}", None, None)(raw, metadata=ada.metadata, timeout=10)
        with refused(INVALID, MALFORMED):
            await (call if method == "ListEvents" else call.read())


FILTERS = {
    "10,000 types": ({"types": ["custom"] * 10_000}, "filter.types", "INVALID_ARGUMENT"),
    "a type with a line break": ({"types": ["custom\nagent_died"]}, "filter.types", "INVALID_ARGUMENT"),
    "an empty type": ({"types": [""]}, "filter.types", "INVALID_ARGUMENT"),
    "a placeholder": ({"run_id": "undefined"}, "filter.run_id", "INVALID_ID"),
    "a thread of 1,000 characters": ({"thread_id": "t" * 1000}, "filter.thread_id", "INVALID_ID"),
    "a thread with a zero byte": ({"thread_id": "t\x00"}, "filter.thread_id", "INVALID_ID"),
}


@pytest.mark.parametrize(("filter", "field", "reason"), FILTERS.values(), ids=FILTERS)
async def test_a_filter_that_is_none_is_refused_by_its_field(
    system: System, ada: Person, filter: dict[str, Any], field: str, reason: str
) -> None:
    desk = reader(system, ada)
    with refused(INVALID, reason) as refusal:
        await desk.list(filter=filter)
    assert refusal.error.fields.keys() == {field}
    with refused(INVALID, reason):
        async with desk.stream(filter=filter) as stream:
            await stream.open()


EVENTS = {
    "1 MB of it": (thought("x" * 1_000_000), "TOO_LARGE"),
    "a type with a line break": (thought(type="agent_thinking\n"), "INVALID_ARGUMENT"),
    "a type with a control character": (thought(type="agent\x07"), "INVALID_ARGUMENT"),
    "a type of letters that only look right": (thought(type="аgent"), "INVALID_ARGUMENT"),
    "an id with a zero byte": (thought(event_id="event\x00"), "INVALID_ID"),
    "an id with a new line": (thought(event_id="event\n1"), "INVALID_ID"),
}


@pytest.mark.parametrize(("event", "reason"), EVENTS.values(), ids=EVENTS)
async def test_an_event_that_is_none_takes_its_append_with_it_and_no_other(
    system: System, ada: Person, eve: Person, event: event_pb2.Event, reason: str
) -> None:
    run, other = await Run.of(system, ada), await Run.of(system, eve)
    with refused(INVALID, reason):
        await run.append(thought("before it"), event)
    assert (await run.append(thought("ada goes on"))).last.offset == 1
    assert (await other.append(thought("eve goes on"))).last.offset == 1


async def test_a_text_that_the_database_cannot_hold_is_kept_as_it_is(system: System, ada: Person) -> None:
    """PostgreSQL refuses a zero byte in a text; bodies are bytes to it."""
    await (await Run.of(system, ada)).append(thought("a zero\x00 byte"))
    assert texts((await reader(system, ada).list()).events) == ["a zero\x00 byte"]


async def test_an_event_of_tomorrow_passes_through(system: System, ada: Person) -> None:
    # Field 99 of an event, which this version does not know: a text.
    sent = thought("known", type="of_tomorrow").SerializeToString() + b"\x9a\x06\x03new"
    await (await Run.of(system, ada)).append(event_pb2.Event.FromString(sent))
    [event] = (await reader(system, ada).list(filter={"types": ["of_tomorrow"]})).events
    assert b"\x9a\x06\x03new" in event.SerializeToString()


async def test_an_old_attempt_is_told_to_stop_and_its_neighbours_are_not_disturbed(
    system: System, ada: Person, eve: Person
) -> None:
    old = await Run.of(system, ada, "run-replaced", attempt=1)
    new = await Run.of(system, ada, "run-replaced", attempt=2)
    await new.append(thought("the new one"))
    other = await Run.of(system, eve)
    for _ in range(5):
        with refused(grpc.StatusCode.ABORTED, "STALE_ATTEMPT"):
            await old.append(thought(f"late {secrets.token_hex(4)}"))
        await other.append(thought())
    assert texts((await reader(system, ada).list()).events) == ["the new one"]
    assert len((await reader(system, eve).list()).events) == 5


async def test_without_nats_from_the_start_nothing_is_lost_and_it_heals_when_nats_comes(
    system: System, ada: Person
) -> None:
    nowhere = f"nats://nobody:nothing@127.0.0.1:{free_ports(1)[0]}"
    run = await Run.of(system, ada)
    async with (
        replica(system, nats_url=nowhere, disconnected_check_seconds=0.1) as channel,
        Reader(channel, ada).stream() as stream,
    ):
        await stream.open()
        # Written elsewhere, so that no copy can come; and here, where none is needed.
        await run.append(*thoughts(2))
        assert offsets(await stream.until_events(2)) == [1, 2]
        await run.at(channel).append(*thoughts(2))
        assert offsets(await stream.until_events(4)) == [1, 2, 3, 4]
