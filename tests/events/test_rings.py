"""What is kept in memory for the streams of all users: never more than the bound, and nobody misses anything that was let go."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from pydantic import ValidationError

from carrel.api.events.v1 import event_pb2
from carrel_events.domain import Cursor
from carrel_events.frames import Frame, placed
from carrel_events.ring import GREATEST_RING_BYTES, Ring, Rings
from carrel_events.settings import EventsSettings
from tests.events.desk import Run, blocked_count, metric, offsets, reader, texts, thought
from tests.support.system import LIVE_BYTES, System

USERS = 8
ROUNDS = 4
EVENT_BYTES = 100_000
ONE = 10_000


def frame(offset: int) -> Frame:
    return Frame.of(placed(thought("x" * ONE).SerializeToString(), Cursor(1_800_000_000, offset)))


def test_all_rings_together_hold_no_more_than_the_bound() -> None:
    rings = Rings(20 * ONE)
    users = [Ring(rings) for _ in range(100)]
    for offset in range(1, 4):
        for ring in users:
            ring.add(frame(offset))
            assert len(ring) > 0 and 0 < rings.held_bytes <= 20 * ONE
            assert rings.held_bytes == sum(ring.held_bytes for ring in users)
    assert sum(len(ring) > 0 for ring in users) > 10


def test_the_ring_that_was_used_the_longest_ago_goes_first() -> None:
    rings = Rings(4 * ONE)
    first, second, third, fourth = (Ring(rings) for _ in range(4))
    for ring in (first, second, third):
        ring.add(frame(1))
    assert len(first.part(0, 10, ONE)) == 1
    fourth.add(frame(1))
    assert [len(ring) for ring in (first, second, third, fourth)] == [1, 0, 1, 1]


def test_a_part_has_no_more_bytes_than_asked_for_but_one_event_in_any_case() -> None:
    ring = Ring(Rings(100 * ONE))
    for offset in range(1, 6):
        ring.add(frame(offset))
    for most_bytes, found in ((1, [2]), (2 * ONE, [2]), (3 * ONE, [2, 3]), (100 * ONE, [2, 3, 4, 5])):
        assert [frame.offset for frame in ring.part(1, 10, most_bytes)] == found
    assert [frame.offset for frame in ring.part(1, 2, 100 * ONE)] == [2, 3]
    assert ring.part(5, 10, ONE) == []


def test_a_ring_that_is_greater_than_the_bound_holds_nothing_and_goes_on() -> None:
    rings = Rings(ONE)
    ring = Ring(rings)
    for offset in (1, 2):
        ring.add(frame(offset))
        assert (len(ring), rings.held_bytes) == (0, 0)


async def test_the_bound_has_room_for_one_whole_ring(system: System) -> None:
    environment = system.stack.service_environment("events")
    told = {name.removeprefix("CARREL_").lower(): value for name, value in environment.items()}
    with pytest.raises(ValidationError, match="live_bytes"):
        EventsSettings(**{**told, "live_bytes": GREATEST_RING_BYTES - 1})


async def test_many_users_stay_below_it_and_each_gets_everything_of_theirs_once_in_order(system: System) -> None:
    people = [await system.person() for _ in range(USERS)]
    runs = [await Run.of(system, person) for person in people]
    coalesce, blocked = event_pb2.SLOW_READER_COALESCE, await blocked_count(system)
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(reader(system, person).stream(slow_reader=coalesce)) for person in people
        ]
        for stream in streams:
            await stream.open()
        # Nobody reads now. What the transport takes ahead is little: most of it has to come from the rings, or from the log.
        for _ in range(ROUNDS):
            for person, run in zip(people, runs, strict=True):
                await run.append(*(thought(person.user_id.ljust(EVENT_BYTES)) for _ in range(3)))
                assert 0 < await metric(system, "carrel_events_rings_held_bytes") <= LIVE_BYTES
        for person, stream in zip(people, streams, strict=True):
            events = await stream.until_events(3 * ROUNDS)
            assert offsets(events) == list(range(1, 3 * ROUNDS + 1))
            assert {text.rstrip() for text in texts(events)} == {person.user_id}
    assert await blocked_count(system) == blocked
