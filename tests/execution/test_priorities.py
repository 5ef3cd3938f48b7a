"""Who begins first: a user's own priorities, and the shares of users and of tenants."""

from __future__ import annotations

from collections import Counter

from carrel_execution import domain
from carrel_execution.domain import ClaimedRun
from carrel_execution.queue.store import Queue
from tests.execution.conftest import Desk

DONE = domain.succeeded({"done": True})


async def take(queue: Queue, count: int = 1) -> list[ClaimedRun]:
    return await queue.claim(count, lease_seconds=30.0, running_limit=1000)


async def take_all(queue: Queue) -> list[str]:
    return [run.run_id for _ in range(20) for run in await take(queue)]


async def test_of_a_users_own_runs_the_higher_priority_begins_first_and_of_equals_the_older(desk: Desk) -> None:
    runs = [await desk.start(priority=priority) for priority in (0, 5, -5, 5, 0)]
    assert await take_all(desk.worker()) == [runs[place].run_id for place in (1, 3, 0, 4, 2)]


async def test_priority_moves_no_run_before_another_of_its_thread_nor_before_another_user(
    desk: Desk, other: Desk
) -> None:
    first = await desk.start(thread_id="thread-bills")
    urgent = await desk.start(thread_id="thread-bills", priority=100)
    theirs = await other.start(priority=-100)
    between = await desk.start(priority=50)
    queue = desk.worker()
    assert await take_all(queue) == [between.run_id, theirs.run_id, first.run_id]
    assert not await desk.cancel(theirs.run_id) and await desk.cancel(first.run_id)
    assert await desk.counters() == (2, 1)
    assert urgent.priority == 100


async def turns(queue: Queue, count: int, at_once: int = 1) -> Counter[str]:
    """How many runs of whom are taken, when each ends before the next are taken."""
    taken: Counter[str] = Counter()
    while taken.total() < count:
        runs = await take(queue, at_once)
        assert runs
        for run in runs:
            taken[run.user_id] += 1
            assert (await queue.finish(run, DONE, [b"final"])).ended == "FINISHED"
    return taken


async def test_a_user_takes_as_many_turns_as_its_weight_where_another_takes_one(desk: Desk, other: Desk) -> None:
    for _ in range(30):
        await desk.start(weight=3)
        await other.start()
    taken = await turns(desk.worker(), 40)
    assert taken == {desk.user.user_id: 30, other.user.user_id: 10}


async def test_a_weight_that_is_set_later_holds_from_the_next_run_on(desk: Desk, other: Desk) -> None:
    for _ in range(12):
        await desk.start(weight=3)
        await other.start()
    await desk.start(weight=1)
    assert await turns(desk.worker(), 12) == {desk.user.user_id: 6, other.user.user_id: 6}


async def test_a_tenant_with_a_weight_takes_turns_as_one_however_many_users_it_has(desk: Desk, other: Desk) -> None:
    crowd = [desk.colleague() for _ in range(10)]
    for _ in range(4):
        for member in crowd:
            await member.start(tenant_weight=2)
    for _ in range(10):
        await other.start(tenant_weight=1)
    for at_once in (1, 4):
        taken = await turns(desk.worker(), 12, at_once)
        assert taken[other.user.user_id] == 4, at_once
    assert (
        len([member for member in crowd if (await member.counters())[1] < 4]) == 10
    )  # within the tenant, users take turns


async def test_a_tenant_with_a_weight_is_in_line_with_users_of_tenants_without(desk: Desk, other: Desk) -> None:
    crowd = [desk.colleague() for _ in range(10)]
    for _ in range(3):
        for member in crowd:
            await member.start(tenant_weight=1)
    for _ in range(15):
        await other.start()
    assert (await turns(desk.worker(), 30, 3))[other.user.user_id] == 15


async def test_a_tenants_weight_that_is_taken_away_leaves_its_users_each_their_own_turns(
    desk: Desk, other: Desk
) -> None:
    crowd = [desk.colleague() for _ in range(3)]
    for member in crowd:
        for _ in range(4):
            await member.start(tenant_weight=1)
    for member in crowd:
        await member.start(tenant_weight=0)
    for _ in range(5):
        await other.start()
    assert await turns(desk.worker(), 20) == Counter({each.user.user_id: 5 for each in (*crowd, other)})
