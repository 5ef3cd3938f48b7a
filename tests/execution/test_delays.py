"""What the clock brings about: delayed starts, deadlines, and the back-off between tries. No test waits for longer than a moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from carrel_execution import domain
from carrel_execution.domain import ClaimedRun, Run, State
from carrel_execution.queue.outbox import final_event
from carrel_execution.queue.store import Overdue, Queue, Sent
from carrel_execution.runs.start import Accepted, QueueLimits, Refusal
from tests.execution.conftest import NOW, Desk
from tests.support.expect import eventually

DONE = domain.succeeded({"done": True})
LIMITS = QueueLimits(1000, time=NOW)


def after(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def claim(queue: Queue) -> list[ClaimedRun]:
    return await queue.claim(10, lease_seconds=30.0, running_limit=100)


async def past(desk: Desk, run: Run) -> None:
    """Moves what is to come for a run into the past, as if the time had gone by."""
    async with desk.runner.begin() as connection:
        moved = "UPDATE run SET due_time = due_time - interval '1 h', deadline = deadline - interval '1 h' WHERE run_id = :run_id"
        await connection.execute(text(moved), {"run_id": run.run_id})


async def test_a_delayed_run_begins_when_its_time_has_come_and_not_before(desk: Desk) -> None:
    queue = desk.worker()
    delayed = await desk.start(earliest_start_time=after(600))
    assert await desk.ready() == 0 and await desk.counters() == (0, 1)
    assert await queue.wake_due(10) == 0 and await claim(queue) == []
    await past(desk, delayed)
    assert await queue.wake_due(10) == 1 and await desk.ready() == 1
    assert await queue.wake_due(10) == 0
    assert [run.run_id for run in await claim(queue)] == [delayed.run_id]


async def test_a_start_that_lies_in_the_past_is_no_delay(desk: Desk) -> None:
    await desk.start(earliest_start_time=after(-600))
    assert await desk.ready() == 1


async def test_a_delayed_run_holds_its_thread_and_waits_in_it(desk: Desk) -> None:
    queue = desk.worker()
    first = await desk.start(thread_id="thread-bills", earliest_start_time=after(600))
    second = await desk.start(thread_id="thread-bills", earliest_start_time=after(600))
    assert await claim(queue) == []
    await past(desk, second)
    assert await queue.wake_due(10) == 0 and await claim(queue) == []
    await past(desk, first)
    assert await queue.wake_due(10) == 1
    [run] = await claim(queue)
    await queue.finish(run, DONE, [b"final"])
    assert run.run_id == first.run_id and [run.run_id for run in await claim(queue)] == [second.run_id]


async def test_a_slot_that_is_locked_is_left_for_the_next_time(desk: Desk, other: Desk) -> None:
    queue = desk.worker()
    mine, theirs = [await each.start(earliest_start_time=after(600)) for each in (desk, other)]
    for run, each in ((mine, desk), (theirs, other)):
        await past(each, run)
    async with desk.runner.begin() as connection:
        lock = text("SELECT FROM user_slot WHERE user_id = :user_id FOR UPDATE")
        await connection.execute(lock, {"user_id": desk.user.user_id})
        assert await queue.wake_due(10) == 1
    assert (await desk.ready(), await other.ready()) == (0, 1)
    assert await queue.wake_due(10) == 1


async def test_a_run_that_no_worker_holds_ends_at_its_deadline_with_its_event(desk: Desk, other: Desk) -> None:
    queue = desk.worker()
    waiting, working = await desk.start(deadline=after(600)), await desk.start(deadline=after(600))
    queued, delayed = (
        await desk.start(deadline=after(600)),
        await desk.start(deadline=after(900), earliest_start_time=after(600)),
    )
    theirs = await other.start()
    held = {run.run_id: run for _ in range(2) for run in await queue.claim(10, lease_seconds=30.0, running_limit=2)}
    assert await desk.release(held[waiting.run_id])
    assert held[working.run_id].deadline is not None
    assert await queue.end_overdue(10) == []
    for run in (waiting, working, queued, delayed):
        await past(desk, run)
    ended = await queue.end_overdue(10)
    assert {run.run_id for run in ended} == {waiting.run_id, queued.run_id, delayed.run_id}
    assert set(ended) <= {Overdue(*desk.user.owner, run.run_id, "echo") for run in (waiting, queued, delayed)}
    found = await desk.get(queued.run_id)
    assert found and (found.state, found.error_reason) == (State.TIMED_OUT, "DEADLINE_EXCEEDED")
    assert await desk.counters() == (1, 0)
    stranger = await other.get(theirs.run_id)
    assert stranger and not stranger.state.final
    told = await eventually(lambda: queue.take_due(10, 30.0))
    last = {row.run_id: final_event(row) for row in told if not row.event}
    assert last.keys() == {waiting.run_id, queued.run_id, delayed.run_id}
    assert {(event.type, event.final, event.agent_failed.reason) for event in last.values()} == {
        ("agent_failed", True, "DEADLINE_EXCEEDED")
    }


async def test_a_deadline_in_a_thread_lets_the_next_begin(desk: Desk) -> None:
    queue = desk.worker()
    late = await desk.start(thread_id="thread-bills", deadline=after(600), earliest_start_time=after(300))
    await desk.start(thread_id="thread-bills")
    await past(desk, late)
    assert len(await queue.end_overdue(10)) == 1 and await desk.ready() == 1


async def test_a_deadline_that_is_over_is_refused_but_not_to_him_who_asks_again(desk: Desk) -> None:
    assert await desk.try_accept("", LIMITS, deadline=after(-1)) == Refusal("deadline_over")
    run = await desk.start(request_id="request-soon", deadline=after(600))
    await past(desk, run)
    again = await desk.try_accept("request-soon", LIMITS, deadline=run.deadline)
    assert isinstance(again, Accepted) and again.run.run_id == run.run_id


async def test_a_run_that_is_tried_again_waits_and_keeps_its_place(desk: Desk) -> None:
    queue = desk.worker()
    first = await desk.start(thread_id="thread-bills")
    await desk.start(thread_id="thread-bills")
    [run] = await claim(queue)
    retried = await queue.retry(run, 600.0, [b"retried"])
    assert (retried.ended, retried.position) == ("RETRIED", 1)
    assert (await queue.retry(run, 600.0, [b"retried"])).ended == "STALE"
    assert await desk.counters() == (0, 2) and await claim(queue) == []
    await past(desk, first)
    assert await queue.wake_due(10) == 1
    [again] = await claim(queue)
    assert (again.run_id, again.epoch, again.retries) == (first.run_id, 2, 1)
    ended = await queue.finish(again, DONE, [b"final"])
    assert ended.position == 2
    assert [event for _, event in await desk.outbox()].count(b"retried") == 1


async def test_a_run_that_its_user_stops_is_not_tried_again(desk: Desk) -> None:
    queue = desk.worker()
    run = await desk.start()
    [held] = await claim(queue)
    await desk.cancel(run.run_id)
    retried = await queue.retry(held, 0.0, [b"retried"])
    assert (retried.ended, retried.reason) == ("CANCELLING", "enough")
    assert await desk.counters() == (1, 0)


@pytest.mark.parametrize("what", ["epoch", "owner"])
async def test_only_the_attempt_that_holds_a_run_has_it_tried_again_or_lets_it_wait(
    desk: Desk, other: Desk, what: str
) -> None:
    queue = desk.worker()
    await desk.start()
    [held] = await claim(queue)
    wrong = (
        replace(held, epoch=2)
        if what == "epoch"
        else replace(held, tenant_id=other.user.tenant_id, user_id=other.user.user_id)
    )
    assert (await queue.retry(wrong, 0.0, [])).ended == "STALE"
    assert not await desk.release(wrong)
    assert await desk.counters() == (1, 0)


async def test_waiting_frees_the_place_counts_as_no_work_and_ends_where_it_began(desk: Desk, other: Desk) -> None:
    queue = desk.worker()
    run = await desk.start(thread_id="thread-bills")
    await desk.start(thread_id="thread-bills")
    [held] = await claim(queue)
    assert await desk.release(held) and await desk.counters() == (0, 1)
    assert not await desk.release(held)
    assert (await queue.finish(held, DONE, [b"final"])).ended == "STALE"
    found = await desk.get(run.run_id)
    assert found and found.state is State.WAITING
    async with desk.runner.begin() as connection:
        await connection.execute(
            text(
                "UPDATE run SET start_time = start_time - interval '1 h', wait_time = wait_time - interval '1 h' WHERE run_id = :run_id"
            ),
            {"run_id": run.run_id},
        )
    assert not await other.go_on(run.run_id)
    assert await desk.go_on(run.run_id) and not await desk.go_on(run.run_id)
    assert await desk.ready() == 1
    [again] = await claim(queue)
    assert (again.run_id, again.epoch) == (run.run_id, 2)
    assert 0.0 <= again.elapsed_seconds < 60.0
    ended = await queue.finish(again, DONE, [b"final"])
    assert 0.0 <= ended.worked_seconds < 60.0


async def test_what_an_attempt_could_not_tell_comes_before_what_the_next_tells(desk: Desk) -> None:
    queue = desk.worker()
    await desk.start()
    [first] = await claim(queue)
    assert (first.unsent, first.unsent_position) == ([b"queued"], 0)
    await queue.retry(first, 0.0, [b"said", b"retried"])
    [second] = await claim(queue)
    assert (second.unsent, second.unsent_position) == ([b"queued", b"said", b"retried"], 2)
    ended = await queue.finish(second, DONE, [b"final"])
    assert (ended.position, ended.overtakes) == (3, False)
    # That the end is told says nothing of what is before it.
    await queue.delete_sent([Sent(second.tenant_id, second.user_id, second.run_id, first=3, last=3)])
    assert await desk.outbox() == [(0, b"queued"), (1, b"said"), (2, b"retried")]


async def test_an_end_is_not_told_before_what_others_have_put_into_the_outbox_meanwhile(desk: Desk) -> None:
    queue = desk.worker()
    run = await desk.start()
    [held] = await claim(queue)
    assert await desk.release(held) and await desk.go_on(run.run_id)
    [held] = await claim(queue)
    await desk.put_event(run, b"answered")
    ended = await queue.finish(held, DONE, [b"final"])
    assert (ended.ended, ended.position, ended.overtakes) == ("FINISHED", 2, True)
    assert await desk.outbox() == [(0, b"queued"), (1, b"answered"), (2, b"final")]
