"""A run that nobody has to wait for begins where it is accepted, in the same commit; and never past a limit or before another's turn."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from carrel_execution import domain
from carrel_execution.domain import State
from carrel_execution.runs.start import Accepted, Offer, QueueLimits
from tests.execution.conftest import NOW, RULES, Desk

DONE = domain.succeeded({"done": True})
OFFER = Offer("worker-with-room", "7.1")


async def offered(desk: Desk, request_id: str = "", limits: QueueLimits | None = None, **wishes: Any) -> Accepted:
    accepted = await desk.try_accept(request_id, limits or QueueLimits(1000, time=NOW), offer=OFFER, **wishes)
    assert isinstance(accepted, Accepted)
    return accepted


async def test_the_run_is_the_workers_as_attempt_one_with_its_lease_and_its_event(desk: Desk) -> None:
    accepted = await offered(desk)
    assert accepted.direct and not accepted.ready
    run = accepted.run
    assert (run.state, run.epoch, run.agent_version) == (State.RUNNING, 1, "7.1") and run.start_time
    assert await desk.counters() == (1, 0) and await desk.outbox() == [(0, b"queued")]
    assert await desk.worker().reap(5) == []
    queue = desk.worker(OFFER.worker)
    [held] = await queue.renew([run.run_id], 30.0)
    assert held.epoch == 1
    assert await queue.give_back([run.run_id]) == 1
    [again] = await desk.worker().claim(10, lease_seconds=30.0, running_limit=4)
    assert (again.run_id, again.epoch, again.agent_version) == (run.run_id, 2, "7.1")


async def test_the_same_request_again_starts_nothing_and_is_nobodys_to_begin(desk: Desk) -> None:
    answers = await asyncio.gather(*(offered(desk, "request-twice") for _ in range(5)))
    assert [answer.direct for answer in answers].count(True) == 1
    assert len({answer.run.run_id for answer in answers}) == 1
    assert await desk.counters() == (1, 0)


async def test_no_more_begin_at_once_than_may_be_worked_on(desk: Desk) -> None:
    answers = await asyncio.gather(*(offered(desk) for _ in range(10)))
    assert [answer.direct for answer in answers].count(True) == RULES.running
    assert await desk.counters() == (RULES.running, 10 - RULES.running)
    own = QueueLimits(1000, running=1, time=NOW)
    assert not (await offered(desk, limits=own)).direct


async def test_a_run_does_not_begin_before_one_of_its_user_that_waits(desk: Desk, other: Desk) -> None:
    await desk.start()
    assert not (await offered(desk)).direct and await desk.ready() == 2
    assert (await offered(other)).direct


async def test_a_run_that_must_wait_does_not_begin(desk: Desk) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    assert not (await offered(desk, earliest_start_time=later)).direct
    assert (await offered(desk, thread_id="thread-bills")).direct
    behind = await offered(desk, thread_id="thread-bills")
    assert not behind.direct and not behind.ready and behind.run.state is State.QUEUED


@pytest.mark.parametrize(
    "limits", [QueueLimits(9, 0, 5, 0, NOW), QueueLimits(9, 0, 0, 5, NOW), QueueLimits(9, time=NOW, tenant_weight=1)]
)
async def test_in_a_tenant_with_limits_or_a_weight_every_run_goes_through_the_line(
    desk: Desk, limits: QueueLimits
) -> None:
    assert not (await offered(desk, limits=limits)).direct
    older = QueueLimits(9, time=NOW - timedelta(hours=1))
    assert not (await offered(desk.colleague(), limits=older)).direct
    assert await desk.tenant_counters() == (2, 0)


async def test_what_begins_at_once_ends_as_any_other_and_lets_the_next_of_its_thread_begin(desk: Desk) -> None:
    first, second = [await offered(desk, thread_id="thread-bills") for _ in range(2)]
    assert first.direct and not second.direct
    await desk.cancel(first.run.run_id)
    queue = desk.worker()
    assert await queue.claim(9, lease_seconds=30.0, running_limit=4) == []
    held = await desk.get(first.run.run_id)
    assert held and held.state is State.CANCELLING
    assert await desk.end(first.run, domain.cancelled("enough")) == "FINISHED"
    assert await desk.end(first.run, DONE) == "STALE"
    [next_] = await queue.claim(9, lease_seconds=30.0, running_limit=4)
    assert next_.run_id == second.run.run_id
