"""Room that a worker keeps for a run while it is being accepted: given when nobody is in line, and never lost."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from carrel_execution.attempt.attempt import Workshop
from carrel_execution.queue.store import Queue
from carrel_execution.queue.waiting import in_background
from carrel_execution.queue.worker import Worker
from carrel_execution.runs.start import Accepted, Offer, QueueLimits
from carrel_execution.settings import ExecutionSettings
from tests.execution.conftest import NOW, Desk
from tests.support.expect import eventually

NONE = cast(Any, None)
"""What a worker needs for the attempts only; none begins here."""


def worker_with(queue: Queue, capacity: int) -> Worker:
    settings = ExecutionSettings.model_construct(worker_capacity=capacity, poll_seconds=0.05, lease_seconds=30.0)
    parts = dict.fromkeys(Workshop.__dataclass_fields__, NONE) | {
        "settings": settings,
        "queue": queue,
        "abandoned": set(),
    }
    return Worker(Workshop(**parts))


async def test_a_worker_offers_no_more_places_than_it_has_and_none_before_it_has_seen_the_line(desk: Desk) -> None:
    worker = worker_with(desk.worker(), 2)
    assert worker.place("run-1") is None
    async with in_background(worker.run()):
        first = await eventually(lambda: as_answer(worker.place("run-1")))
    second = worker.place("run-2")
    assert second is not None and worker.place("run-3") is None and not worker.has_room
    with first:
        pass
    assert worker.has_room and worker.place("run-3") is not None


async def test_a_worker_that_was_just_told_of_a_run_in_the_line_offers_none(desk: Desk) -> None:
    worker = worker_with(desk.worker(), 2)
    async with in_background(worker.run()):
        await eventually(lambda: as_answer(worker.place("run-1")))
    worker.wake()
    assert worker.place("run-2") is None


async def as_answer(value: Any) -> Any:
    return value


async def test_a_run_of_which_nobody_knows_whether_it_was_accepted_goes_back_into_the_queue(desk: Desk) -> None:
    queue = desk.worker()
    worker = worker_with(queue, 2)
    async with in_background(worker.run()):
        place = await eventually(lambda: as_answer(worker.place("run-lost")))
    limits = QueueLimits(9, time=NOW)
    accepted = await desk.try_accept("", limits, offer=Offer(worker.name, ""))
    assert isinstance(accepted, Accepted) and accepted.direct
    place.run_id = accepted.run.run_id
    with pytest.raises(asyncio.CancelledError), place:
        raise asyncio.CancelledError  # its caller has gone away between the commit and the answer

    async def queued() -> bool:
        return await desk.counters() == (0, 1)

    await eventually(queued)
    assert await desk.ready() == 1
