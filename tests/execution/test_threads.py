"""The runs of a thread follow each other, whatever happens to those before, and what one leaves the next finds."""

from __future__ import annotations

import asyncio

import pytest

from carrel_execution import domain
from carrel_execution.domain import ClaimedRun, Run, State
from carrel_execution.queue.store import Queue
from carrel_execution.runs.start import Accepted, QueueLimits, Refusal
from tests.execution.conftest import NOW, Desk

DONE = domain.succeeded({"done": True})
CANCELLED = domain.cancelled("enough")
LIMITS = QueueLimits(1000, time=NOW)


async def claim(queue: Queue, count: int = 10) -> list[ClaimedRun]:
    return await queue.claim(count, lease_seconds=30.0, running_limit=100)


async def start(desk: Desk, thread_id: str = "thread-bills", **wishes: object) -> Run:
    return await desk.start(thread_id=thread_id, **wishes)


async def refusal(desk: Desk, **wishes: object) -> Refusal:
    refused = await desk.try_accept("", LIMITS, thread_id="thread-bills", **wishes)
    assert isinstance(refused, Refusal)
    return refused


async def state_of(desk: Desk, run: Run) -> State:
    found = await desk.get(run.run_id)
    assert found is not None
    return found.state


async def test_a_run_waits_for_those_before_it_in_its_thread_and_for_no_other(desk: Desk) -> None:
    first, second = await start(desk), await start(desk)
    beside = await start(desk, "thread-letters")
    alone = await desk.start()
    queue = desk.worker()
    assert await desk.ready() == 3
    taken = [run for _ in range(4) for run in await claim(queue)]
    assert [run.run_id for run in taken] == [first.run_id, beside.run_id, alone.run_id]
    assert (await queue.finish(taken[0], DONE, [b"final"])).waiting
    assert [run.run_id for run in await claim(queue)] == [second.run_id]


async def test_two_workers_never_have_two_runs_of_a_thread_and_keep_their_order(desk: Desk) -> None:
    threads = ("thread-bills", "thread-letters", "thread-plans")
    accepted: dict[str, list[str]] = {thread: [] for thread in threads}
    done: dict[str, list[str]] = {thread: [] for thread in threads}
    at_work: set[str] = set()

    async def accept_all(thread: str) -> None:
        for _ in range(15):
            accepted[thread].append((await start(desk, thread)).run_id)

    async def work(queue: Queue) -> None:
        while sum(map(len, done.values())) < 45:
            for run in await claim(queue, 2):
                assert run.thread_id not in at_work
                at_work.add(run.thread_id)
                await asyncio.sleep(0)
                done[run.thread_id].append(run.run_id)
                at_work.remove(run.thread_id)
                assert (await queue.finish(run, DONE, [b"final"])).ended == "FINISHED"

    async with asyncio.timeout(60):
        await asyncio.gather(*map(accept_all, threads), work(desk.worker()), work(desk.worker()))
    assert done == accepted
    assert await desk.counters() == (0, 0)


@pytest.mark.parametrize("end", ["failed", "cancelled", "lost", "given back", "released and cancelled"])
async def test_however_the_first_ends_the_next_begins_then_and_not_before(desk: Desk, end: str) -> None:
    first, second = await start(desk), await start(desk)
    queue = desk.worker()
    [run] = await queue.claim(9, lease_seconds=0.0 if end == "lost" else 30.0, running_limit=9)
    match end:
        case "failed":
            await queue.finish(run, domain.failed("X", "x"), [b"final"])
        case "cancelled":
            await desk.cancel(first.run_id)
            assert await claim(queue) == []
            await queue.finish(run, CANCELLED, [b"final"])
        case "lost":
            await queue.reap(9)
            [again] = await claim(queue)
            assert again.run_id == first.run_id and await claim(queue) == []
            await queue.finish(again, DONE, [b"final"])
        case "given back":
            await queue.give_back([run.run_id])
            [again] = await claim(queue)
            assert again.run_id == first.run_id and await claim(queue) == []
            await queue.finish(again, DONE, [b"final"])
        case _:
            assert await desk.release(run)
            assert await claim(queue) == []
            await desk.cancel(first.run_id)
    assert [run.run_id for run in await claim(queue)] == [second.run_id]
    assert await desk.counters() == (1, 0)


async def test_a_run_that_is_cancelled_in_the_middle_lets_nobody_overtake(desk: Desk) -> None:
    first, second, third = [await start(desk) for _ in range(3)]
    await desk.cancel(second.run_id)
    assert await desk.ready() == 1
    queue = desk.worker()
    [run] = await claim(queue)
    await queue.finish(run, DONE, [b"final"])
    assert run.run_id == first.run_id and [run.run_id for run in await claim(queue)] == [third.run_id]


async def test_the_thread_of_a_run_that_named_none_can_be_named_by_the_next(desk: Desk) -> None:
    first = await desk.start()
    queue = desk.worker()
    [run] = await claim(queue)
    second = await start(desk, first.thread_id)
    assert second.thread_id == first.thread_id and await claim(queue) == []
    await queue.finish(run, DONE, [b"final"])
    assert [run.run_id for run in await claim(queue)] == [second.run_id]


async def test_another_users_thread_of_the_same_name_is_another_thread(desk: Desk, other: Desk) -> None:
    mine, alone = await start(desk), await desk.start()
    for policy in domain.BusyThread:
        for run in (mine, alone):
            accepted = await other.try_accept("", LIMITS, thread_id=run.thread_id, busy_thread=policy)
            assert isinstance(accepted, Accepted) and accepted.ready and not accepted.interrupted
            await other.cancel(accepted.run.run_id)
    assert await desk.counters() == (0, 2) and await desk.ready() == 2


async def test_a_busy_thread_refuses_when_asked_to_and_says_with_what_it_is_busy(desk: Desk) -> None:
    first = await start(desk, busy_thread=domain.BusyThread.REJECT)
    assert await refusal(desk, busy_thread=domain.BusyThread.REJECT) == Refusal("thread_busy", blocker=first.run_id)
    await desk.cancel(first.run_id)
    await start(desk, busy_thread=domain.BusyThread.REJECT)


@pytest.mark.parametrize("policy", [domain.BusyThread.INTERRUPT, domain.BusyThread.ROLLBACK])
async def test_an_interruption_cancels_all_that_is_before_it_in_its_thread(
    desk: Desk, policy: domain.BusyThread
) -> None:
    beside = await start(desk, "thread-letters")
    running, queued = await start(desk), await start(desk)
    queue = desk.worker()
    held = {run.run_id: run for _ in range(3) for run in await claim(queue)}
    accepted = await desk.try_accept("", LIMITS, thread_id="thread-bills", busy_thread=policy)
    assert isinstance(accepted, Accepted)
    assert accepted.interrupted == (running.run_id,) and not accepted.ready
    states = [await state_of(desk, run) for run in (running, queued, beside)]
    assert states == [State.CANCELLING, State.CANCELLED, State.RUNNING]
    assert await claim(queue) == []
    ended = await queue.finish(held[running.run_id], DONE, [b"final"])
    assert (ended.ended, ended.reason) == ("CANCELLING", f"interrupted by run {accepted.run.run_id}")
    await queue.finish(held[running.run_id], CANCELLED, [b"final"])
    assert [run.run_id for run in await claim(queue)] == [accepted.run.run_id]


@pytest.mark.parametrize(
    ("policy", "left"), [(domain.BusyThread.INTERRUPT, '{"n":2}'), (domain.BusyThread.ROLLBACK, '{"n":1}')]
)
async def test_what_an_interrupted_run_leaves_stays_and_what_one_rolled_back_leaves_does_not(
    desk: Desk, policy: domain.BusyThread, left: str
) -> None:
    queue = desk.worker()
    await start(desk)
    [first] = await claim(queue)
    await queue.finish(first, DONE, [b"final"], thread_state='{"n":1}')
    await start(desk)
    [second] = await claim(queue)
    assert await queue.thread_state(second) == '{"n":1}'
    await start(desk, busy_thread=policy)
    await queue.finish(second, CANCELLED, [b"final"], thread_state='{"n":2}')
    [third] = await claim(queue)
    assert await queue.thread_state(third) == left
    await queue.finish(third, DONE, [b"final"])
    assert await queue.thread_state(third) == left


async def test_the_state_of_a_thread_is_its_users_alone(desk: Desk, other: Desk) -> None:
    queue = desk.worker()
    await start(desk)
    [mine] = await claim(queue)
    await queue.finish(mine, DONE, [b"final"], thread_state='{"secret":1}')
    await start(other)
    [theirs] = await claim(queue)
    assert theirs.user_id == other.user.user_id and await queue.thread_state(theirs) == ""


async def test_a_thousand_runs_behind_a_busy_thread_are_in_no_claims_way(desk: Desk, other: Desk) -> None:
    for _ in range(1000):
        await start(desk, limit=2000)
    last = await desk.start(limit=2000)
    theirs = await other.start()
    queue = desk.worker()
    assert await desk.ready() == 2
    taken = [run.run_id for _ in range(3) for run in await claim(queue)]
    assert len(taken) == 3 and {last.run_id, theirs.run_id} < set(taken)
