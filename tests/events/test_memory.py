"""Readers that do not read: what the server holds for them stays small, however much their user's runs write."""

from __future__ import annotations

from contextlib import AsyncExitStack

import psutil

from carrel.api.events.v1 import event_pb2
from tests.events.desk import Run, reader, texts, thought
from tests.support.system import Person, System

READERS = 20
WRITTEN_BYTES = 30_000_000
EVENT_BYTES = 100_000
CAP_BYTES = 2 * 1024 * 1024
"""For each stream: a page of the log, the message made of it, what the transport takes ahead, and what the allocator keeps; 0.6 to
1.4 MB were measured. The ring is shared. Without a bound it would be all that was written."""


async def test_what_is_held_for_readers_that_do_not_read_is_bounded(system: System, ada: Person, eve: Person) -> None:
    process = psutil.Process(system.stack.pids()["events"])
    run, coalesce = await Run.of(system, ada), event_pb2.SLOW_READER_COALESCE
    # Once around without a reader: what appending itself takes is not theirs.
    for _ in range(10):
        await run.append(*(thought("x" * EVENT_BYTES) for _ in range(10)))
    async with AsyncExitStack() as stack:
        after = (await run.append(thought())).last
        for _ in range(READERS):
            stream = await stack.enter_async_context(reader(system, ada).stream(after=after, slow_reader=coalesce))
            await stream.open()
        before = process.memory_info().rss
        for _ in range(WRITTEN_BYTES // EVENT_BYTES // 10):
            await run.append(*(thought("x" * EVENT_BYTES) for _ in range(10)))
        assert process.memory_info().rss - before < READERS * CAP_BYTES
        # Nobody else is slowed, and nothing is lost to those who read on.
        async with reader(system, eve).stream() as eves:
            await eves.open()
            await (await Run.of(system, eve)).append(thought("eve's"))
            assert texts(await eves.until_events(1)) == ["eve's"]
        events = await stream.until_events(WRITTEN_BYTES // EVENT_BYTES)
        assert [event.cursor.offset - after.offset for event in events] == list(range(1, len(events) + 1))
