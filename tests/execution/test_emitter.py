"""Events on their way: in order, in batches, without slowing the agent more than they must."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from carrel.api.events.v1 import event_pb2 as pb
from carrel_execution.attempt.emitter import Emitter


class Gate:
    """A log that takes a batch when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.arrived = asyncio.Semaphore(0)
        self.open = asyncio.Semaphore(0)

    async def send(self, batch: Sequence[pb.Event]) -> None:
        self.batches.append([event.event_id for event in batch])
        self.arrived.release()
        await self.open.acquire()


def event(number: int) -> pb.Event:
    return pb.Event(event_id=f"e{number}")


def no_failure(error: Exception) -> None:
    raise AssertionError(error)


async def test_what_comes_soon_after_the_first_is_in_its_batch() -> None:
    gate = Gate()
    emitter = Emitter(gate.send, no_failure)
    emitter.put(event(1))
    emitter.start()
    for number in (2, 3):
        await asyncio.sleep(0)
        await emitter.emit(event(number))
    await gate.arrived.acquire()
    assert gate.batches == [["e1", "e2", "e3"]]
    gate.open.release()
    assert await emitter.settle(5.0) == []


async def test_a_run_that_ends_soon_begins_no_batch() -> None:
    gate = Gate()
    emitter = Emitter(gate.send, no_failure)
    emitter.put(event(1))
    emitter.start()
    await asyncio.sleep(0)
    emitter.put(event(2))
    settling = asyncio.create_task(emitter.settle(5.0))
    for _ in range(5):  # turns of the loop: nobody waits for the time that a batch is given to fill
        await asyncio.sleep(0)
    assert settling.done()
    assert [each.event_id for each in settling.result()] == ["e1", "e2"]
    assert gate.batches == []


async def test_what_comes_while_a_batch_is_under_way_is_the_next_batch() -> None:
    gate = Gate()
    emitter = Emitter(gate.send, no_failure)
    emitter.put(event(1))
    emitter.start()
    await gate.arrived.acquire()
    for number in (2, 3):
        await emitter.emit(event(number))
    gate.open.release()
    await gate.arrived.acquire()
    assert gate.batches == [["e1"], ["e2", "e3"]]
    assert [each.event_id for each in emitter.seal()] == ["e2", "e3"]
    gate.open.release()
    assert await emitter.settle(5.0) == []


async def test_what_is_under_way_at_the_end_is_not_taken_for_sent() -> None:
    gate = Gate()
    emitter = Emitter(gate.send, no_failure)
    emitter.put(event(1))
    emitter.start()
    await gate.arrived.acquire()
    emitter.put(event(2))
    assert [each.event_id for each in await emitter.settle(0.0)] == ["e1", "e2"]
    assert gate.batches == [["e1"]]


async def test_an_agent_waits_when_256_events_are_under_way() -> None:
    gate = Gate()
    emitter = Emitter(gate.send, no_failure)
    for number in range(256):
        await emitter.emit(event(number))
    more = asyncio.create_task(emitter.emit(event(256)))
    emitter.start()
    await gate.arrived.acquire()
    assert not more.done()
    gate.open.release()
    await more
    await emitter.settle(0.0)
    assert sum(map(len, gate.batches)) <= 257


async def test_a_log_that_refuses_for_good_is_told_once_and_asked_no_more() -> None:
    failures: list[Exception] = []
    told = asyncio.Event()

    def fail(error: Exception) -> None:
        failures.append(error)
        told.set()

    async def refuse(batch: Sequence[pb.Event]) -> None:
        raise LookupError("stale")

    emitter = Emitter(refuse, fail)
    emitter.start()
    await emitter.emit(event(2))
    await told.wait()
    await emitter.emit(event(3))
    assert [type(error) for error in failures] == [LookupError]
    await emitter.settle(0.0)
