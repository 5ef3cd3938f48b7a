"""Limits of a tenant on waiting and on running runs: exact however many ask at once, and nobody else's business."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import grpc
import pytest
from sqlalchemy import text

from carrel.api.runs.v1 import run_pb2
from carrel_chassis.ids import new_id
from carrel_execution import domain
from carrel_execution.domain import ClaimedRun
from carrel_execution.queue.store import Queue
from carrel_execution.runs.start import QueueLimits, Refusal
from tests.context.test_limits import set_limits
from tests.execution.conftest import NOW, Desk
from tests.execution.test_runs import Runs
from tests.support.expect import refused
from tests.support.system import System

DONE = domain.succeeded({"done": True})
LATER = NOW + timedelta(minutes=1)


async def claim(queue: Queue, count: int = 10, *, lease_seconds: float = 30.0) -> list[ClaimedRun]:
    return await queue.claim(count, lease_seconds=lease_seconds, running_limit=4)


@pytest.mark.parametrize("users", [1, 5, 50])
async def test_of_fifty_that_start_at_once_ten_are_accepted(desk: Desk, users: int) -> None:
    people = [desk, *(desk.colleague() for _ in range(users - 1))]
    limits = QueueLimits(1000, tenant_queued=10, time=NOW)
    answers = await asyncio.gather(*(people[n % users].try_accept(new_id("request"), limits) for n in range(50)))
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    assert len(refusals) == 40 and set(refusals) == {Refusal("tenant_queued_runs", 10)}
    assert await desk.tenant_counters() == (10, 0)
    assert sum([(await each.counters())[1] for each in people]) == 10


async def test_what_is_already_accepted_is_told_again_though_the_queue_is_full(desk: Desk) -> None:
    first = await desk.accept("request-first", tenant_limits=(1, 0))
    assert first and await desk.colleague().accept(tenant_limits=(1, 0)) is None
    assert await desk.accept("request-first", tenant_limits=(1, 0)) == first


async def test_the_users_own_limit_is_named_when_it_is_the_one_that_is_reached(desk: Desk) -> None:
    limits = QueueLimits(1, tenant_queued=5, time=NOW)
    await desk.try_accept("request-1", limits)
    assert await desk.try_accept("request-2", limits) == Refusal("queued_runs", 1)


async def test_a_full_tenant_is_in_no_other_tenants_way(desk: Desk, other: Desk) -> None:
    assert await desk.accept(tenant_limits=(1, 0)) and await desk.accept(tenant_limits=(1, 0)) is None
    assert (
        await other.accept(tenant_limits=(1, 0)) and await other.colleague().accept()
    )  # an older context, no limit in it
    assert await desk.tenant_counters() == (1, 0)


async def test_every_transition_gives_a_waiting_place_back(desk: Desk) -> None:
    colleague, queue = desk.colleague(), desk.worker()

    async def full() -> bool:
        return await colleague.accept(tenant_limits=(2, 0)) is None

    runs = [await desk.accept(tenant_limits=(2, 0)) for _ in range(2)]
    assert await full() and runs[0] and runs[1]
    await desk.cancel(runs[0].run_id)
    assert not await full() and await full()
    claimed = await claim(queue)
    assert len(claimed) == 2 and await desk.tenant_counters() == (0, 2)
    assert not await full()
    assert await queue.give_back([run.run_id for run in claimed]) == 2
    assert await full() and await desk.tenant_counters() == (3, 0)  # what was accepted is never turned away
    claimed = await claim(queue, lease_seconds=0.0)
    assert [run.requeued for run in await queue.reap(5)] == [True] * len(claimed)
    assert await desk.tenant_counters() == (3, 0)


async def test_runs_that_waited_before_there_was_a_limit_are_counted_too(desk: Desk) -> None:
    early = desk.colleague()
    for _ in range(3):
        await early.accept()
    await desk.accept()
    assert await desk.accept(tenant_limits=(5, 1))  # its own earlier run is counted at once, those of others soon
    assert await desk.tenant_counters_of_all(counted=2) == 5
    assert [run.user_id for run in await claim(desk.worker())] == [desk.user.user_id]
    assert await desk.worker().count_in() == 1
    assert await desk.tenant_counters() == (4, 1)
    assert await desk.worker().count_in() == 0


async def test_of_two_limits_that_of_the_newer_context_holds_and_none_sets_free(desk: Desk) -> None:
    assert await desk.accept(tenant_limits=(1, 0), limit_time=NOW)
    assert await desk.accept(tenant_limits=(2, 0), limit_time=LATER)
    assert await desk.accept(tenant_limits=(9, 0), limit_time=NOW) is None
    assert await desk.colleague().accept(tenant_limits=(0, 0), limit_time=NOW) is None
    assert await desk.colleague().accept(tenant_limits=(0, 0), limit_time=LATER + timedelta(minutes=1))
    assert await desk.accept(limit_time=LATER + timedelta(minutes=2))
    assert len(await claim(desk.worker())) == 2


async def test_no_more_than_the_limit_is_at_work_and_users_take_turns(desk: Desk, other: Desk) -> None:
    people = [desk, *(desk.colleague() for _ in range(5))]
    for _ in range(2):
        for each in people:
            await each.accept(tenant_limits=(100, 3))
    for _ in range(2):
        await other.accept()
    first = await claim(desk.worker(), 5)
    assert [run.user_id for run in first] == [each.user.user_id for each in (*people[:3], other)]
    assert [run.user_id for run in await claim(desk.worker(), 5)] == [other.user.user_id]
    for run in first[:3]:
        await desk.worker().finish(run, DONE, [])
    assert [run.user_id for run in await claim(desk.worker(), 5)] == [each.user.user_id for each in people[3:]]


async def test_a_run_that_is_being_cancelled_keeps_its_place_until_it_has_ended(desk: Desk) -> None:
    runs = [await desk.accept(tenant_limits=(0, 1)) for _ in range(2)]
    [claimed] = await claim(desk.worker())
    assert runs[0] and (await desk.cancel(runs[0].run_id))
    assert await claim(desk.worker()) == []
    await desk.worker().finish(claimed, domain.cancelled("enough"), [])
    assert len(await claim(desk.worker())) == 1


async def test_many_workers_together_never_exceed_the_limit_whatever_happens_to_runs(desk: Desk, other: Desk) -> None:
    """Workers claim, end, give back, lose and cancel at random, while a watcher counts what is at work."""
    people = [desk, *(desk.colleague() for _ in range(7))]
    for each in people:
        await asyncio.gather(*(each.accept(tenant_limits=(1000, 3)) for _ in range(10)))
    for _ in range(20):
        await other.accept()
    workers = [asyncio.create_task(_work(desk, people, seed)) for seed in range(4)]
    most = 0
    while not all(worker.done() for worker in workers):
        async with desk.runner.begin() as connection:
            most = max(most, (await connection.execute(_RUNNING, {"tenant_id": desk.user.tenant_id})).scalar_one())
    claims = [run.tenant_id for worker in workers for run in worker.result()]
    assert most == 3
    assert claims.count(desk.user.tenant_id) > 80 and claims.count(other.user.tenant_id) >= 20
    assert await desk.tenant_counters() == (0, 0)
    for each in people:
        assert await each.counters() == (0, 0)


_RUNNING = text("SELECT count(*) FROM run WHERE tenant_id = :tenant_id AND state IN ('RUNNING', 'CANCELLING')")
_LEFT = text("SELECT count(*) FROM run WHERE state IN ('QUEUED', 'RUNNING', 'CANCELLING')")


async def _work(desk: Desk, people: list[Desk], seed: int) -> list[ClaimedRun]:
    """One worker until nothing is left; returns what it has claimed."""
    chance, queue, taken = random.Random(seed), desk.worker(), []
    cancels = {each.user.user_id: each for each in people}
    while True:
        killed = chance.random() < 0.2
        for run in await claim(queue, chance.randint(1, 4), lease_seconds=0.0 if killed else 30.0):
            taken.append(run)
            await asyncio.sleep(0)
            if killed:
                continue
            if chance.random() < 0.2:
                await queue.give_back([run.run_id])
            elif chance.random() < 0.2 and run.user_id in cancels:
                await cancels[run.user_id].cancel(run.run_id)
                await queue.finish(run, domain.cancelled("enough"), [])
            else:
                await queue.finish(run, DONE, [])
        for lost in await queue.reap(1000):
            assert not lost.hopeless
        async with desk.runner.begin() as connection:
            if not (await connection.execute(_LEFT)).scalar_one():
                return taken


async def test_a_tenant_sees_its_own_counters_only_and_the_runner_all(desk: Desk, other: Desk) -> None:
    for each in (desk, other):
        await each.accept(tenant_limits=(7, 7))
    everything = text("SELECT tenant_id FROM tenant_slot")
    async with desk.sessions.open(desk.colleague().user, new_id("call")) as connection:
        assert [row.tenant_id for row in await connection.execute(everything)] == [desk.user.tenant_id]
        changed = await connection.execute(text("UPDATE tenant_slot SET queued_limit = 1 RETURNING tenant_id"))
        assert [row.tenant_id for row in changed] == [desk.user.tenant_id]
    async with desk.runner.begin() as connection:
        found = {row.tenant_id for row in await connection.execute(everything)}
    assert {desk.user.tenant_id, other.user.tenant_id} <= found


async def test_a_tenants_limits_hold_through_the_services_and_the_refusal_says_which(system: System) -> None:
    tenant_id = (await system.person()).tenant_id
    await set_limits(system, tenant_id, queued_runs=2, running_runs=1)
    ada, eve = [Runs(system, await system.person(tenant_id)) for _ in range(2)]
    first = await ada.start("sleeper", {"seconds": 60})
    await ada.until(first.run_id, run_pb2.RUN_STATE_RUNNING)
    waiting = [await eve.start("sleeper", {"seconds": 0}), await ada.start("sleeper", {"seconds": 0})]
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await eve.start("sleeper", {"seconds": 60})
    assert refusal.error.metadata == {"limit": "tenant_queued_runs", "value": "2"}
    assert refusal.error.retry_seconds == 5.0
    stranger = Runs(system, await system.person())
    await stranger.story((await stranger.start("sleeper", {"seconds": 0})).run_id)
    assert (await eve.get(waiting[0].run_id)).state == run_pb2.RUN_STATE_QUEUED
    await ada.cancel(first.run_id)
    await eve.story(waiting[0].run_id)
    await ada.story(waiting[1].run_id)
