"""The channel of a user: a ring that all streams share, which grows no further than its cap and reads from the log what it missed."""

from __future__ import annotations

import asyncio

from carrel_events.channel import Channel, Tap
from carrel_events.domain import START, Cursor
from carrel_events.frames import Frame, placed
from carrel_events.log_reader import Page
from carrel_events.ring import RING_BYTES, RING_EVENTS, Rings
from tests.events.desk import thought

EPOCH = 1_800_000_000


def frame(offset: int, epoch: int = EPOCH, text: str = "x") -> Frame:
    return Frame.of(placed(thought(text).SerializeToString(), Cursor(epoch, offset)))


def rings() -> Rings:
    return Rings(16 * RING_BYTES)


class Log:
    """The log that the channel reads what it missed from."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.reads = 0

    async def read(self, after: Cursor) -> Page:
        self.reads += 1
        await asyncio.sleep(0)
        return Page([frame(offset) for offset in range(after.offset + 1, self.last + 1)], Cursor(EPOCH, self.last))


def seen(channel: Channel, after: int) -> list[int] | None:
    frames = channel.after(Cursor(EPOCH, after), 1000, RING_BYTES)
    return None if frames is None else [frame.offset for frame in frames]


async def settled(channel: Channel) -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_streams_draw_from_the_ring_what_comes_in_order() -> None:
    channel = Channel(Log(5).read, rings())
    assert seen(channel, 5) is None
    channel.begin(Cursor(EPOCH, 5))
    channel.deliver([frame(6), frame(7)])
    channel.deliver([frame(7), frame(8)])
    assert (seen(channel, 5), seen(channel, 7), seen(channel, 8), seen(channel, 4)) == ([6, 7, 8], [8], [], None)


async def test_a_hole_is_read_once_for_all_streams() -> None:
    log = Log(9)
    channel = Channel(log.read, rings())
    channel.taps |= {Tap(False) for _ in range(50)}
    channel.begin(Cursor(EPOCH, 5))
    for offset in (7, 8, 9):
        channel.deliver([frame(offset)])
    await settled(channel)
    assert seen(channel, 5) == [6, 7, 8, 9]
    assert log.reads <= 2
    assert all(tap.wake.is_set() for tap in channel.taps)


async def test_a_copy_that_came_before_the_first_stream_had_read_the_log_is_not_missed() -> None:
    channel = Channel(Log(6).read, rings())
    channel.deliver([frame(6)])
    channel.begin(Cursor(EPOCH, 5))
    await settled(channel)
    assert seen(channel, 5) == [6]


async def test_nor_is_the_first_one_of_a_user_who_had_no_log_when_the_stream_read_it() -> None:
    channel = Channel(Log(2).read, rings())
    channel.deliver([frame(1), frame(2)])
    channel.begin(START)
    await settled(channel)
    frames = channel.after(START, 10, RING_BYTES)
    assert frames is not None and [frame.offset for frame in frames] == [1, 2]


async def test_a_look_at_the_log_finds_what_never_came() -> None:
    channel = Channel(Log(6).read, rings())
    channel.begin(Cursor(EPOCH, 4))
    channel.check(Cursor(EPOCH, 4))
    channel.check(None)
    await settled(channel)
    assert seen(channel, 4) == []
    channel.check(Cursor(EPOCH, 6))
    await settled(channel)
    assert seen(channel, 4) == [5, 6]


async def test_the_first_event_of_a_new_log_needs_no_look() -> None:
    log = Log(1)
    channel = Channel(log.read, rings())
    channel.begin(START)
    channel.deliver([frame(1)])
    frames = channel.after(START, 10, RING_BYTES)
    assert frames is not None and [frame.offset for frame in frames] == [1]
    assert not log.reads


async def test_the_ring_stays_below_its_cap_whoever_does_not_read() -> None:
    kept = rings()
    channel = Channel(Log(0).read, kept)
    channel.begin(Cursor(EPOCH, 0))
    channel.taps |= {Tap(False) for _ in range(50)}
    for offset in range(1, 5 * RING_EVENTS):
        channel.deliver([frame(offset)])
    last = seen(channel, 5 * RING_EVENTS - 1 - RING_EVENTS)
    assert last is not None and len(last) == RING_EVENTS
    assert seen(channel, 5) is None
    for offset in range(5 * RING_EVENTS, 5 * RING_EVENTS + 100):
        channel.deliver([frame(offset, text="x" * 100_000)])
    held = channel.after(Cursor(EPOCH, 5 * RING_EVENTS + 92), 1000, RING_BYTES)
    assert held is not None and len(held) == 7
    assert 0 < kept.held_bytes <= RING_BYTES * 1.25


async def test_a_channel_that_was_closed_keeps_nothing_of_what_still_comes() -> None:
    kept = rings()
    channel = Channel(Log(0).read, kept)
    channel.begin(Cursor(EPOCH, 0))
    channel.deliver([frame(1)])
    assert kept.held_bytes
    channel.close()
    channel.deliver([frame(2), frame(3)])
    assert kept.held_bytes == 0


async def test_a_stream_whose_events_were_let_go_is_sent_to_the_log_and_one_abreast_goes_on() -> None:
    kept = Rings(RING_BYTES)
    channel, others = Channel(Log(0).read, kept), Channel(Log(0).read, kept)
    for user in (channel, others):
        user.begin(Cursor(EPOCH, 0))
    channel.deliver([frame(1), frame(2)])
    for offset in range(1, 30):
        others.deliver([frame(offset, text="x" * 100_000)])
    assert seen(channel, 0) is None and seen(channel, 1) is None
    assert seen(channel, 2) == []
    channel.deliver([frame(3)])
    assert seen(channel, 2) == [3]
