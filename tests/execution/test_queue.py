"""The queue against a real PostgreSQL: what is accepted is never lost, never doubled, and never another user's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from asyncpg import PostgresError
from sqlalchemy import text

from carrel_chassis.pages import LATEST
from carrel_execution import domain
from carrel_execution.domain import ClaimedRun, ListRequest, State
from carrel_execution.queue.store import Queue, Sent
from carrel_execution.runs import repository
from carrel_execution.runs.repository import OWN, Runs
from tests.execution.conftest import ACCEPT_VALUES, Desk
from tests.support.expect import eventually

DONE = domain.succeeded({"done": True})


async def claim(
    queue: Queue, count: int = 10, *, lease_seconds: float = 30.0, running_limit: int = 4
) -> list[ClaimedRun]:
    return await queue.claim(count, lease_seconds=lease_seconds, running_limit=running_limit)


async def test_a_run_is_accepted_with_its_grant_its_place_and_its_first_event(desk: Desk) -> None:
    run = await desk.accept()
    assert run is not None and run.state is State.QUEUED
    assert await desk.counters() == (0, 1)
    assert await desk.outbox() == [(0, b"queued")]
    [claimed] = await claim(desk.worker())
    assert (claimed.run_id, claimed.epoch, claimed.grant, claimed.unsent) == (run.run_id, 1, b"grant", [b"queued"])
    assert await desk.counters() == (1, 0)


async def test_the_same_request_is_one_run_however_often_and_at_once_it_comes(desk: Desk) -> None:
    runs = await asyncio.gather(*(desk.accept("request-twice") for _ in range(5)))
    assert len({run.run_id for run in runs if run}) == 1
    assert await desk.counters() == (0, 1)


async def test_a_full_queue_takes_nothing_and_still_knows_what_it_took(desk: Desk) -> None:
    first = await desk.accept("request-first", limit=2)
    assert await desk.accept(limit=2) is not None
    assert await desk.accept(limit=2) is None
    assert await desk.accept("request-first", limit=2) == first
    assert await desk.counters() == (0, 2)


async def test_many_workers_never_take_the_same_run(desk: Desk, other: Desk) -> None:
    accepted = [await each.accept() for each in (desk, other) for _ in range(10)]
    found = await asyncio.gather(*(_claim_all(desk.worker()) for _ in range(4)))
    taken = [run.run_id for runs in found for run in runs]
    taken += [
        run.run_id for run in await _claim_all(desk.worker())
    ]  # those that were passed by while a slot was locked
    assert sorted(taken) == sorted(run.run_id for run in accepted if run)


async def _claim_all(queue: Queue) -> list[ClaimedRun]:
    taken: list[ClaimedRun] = []
    while runs := await claim(queue, 2, running_limit=100):
        taken += runs
    return taken


async def test_users_take_turns_and_each_goes_by_age(desk: Desk, other: Desk) -> None:
    first, second = await desk.accept(), await desk.accept()
    third = await other.accept()
    order = [run.run_id for _ in range(3) for run in await claim(desk.worker(), 1)]
    assert [first and first.run_id, third and third.run_id, second and second.run_id] == order


async def test_a_user_never_has_more_at_work_than_the_limit(desk: Desk) -> None:
    for _ in range(4):
        await desk.accept(running_limit=2)
    assert len(await _claim_all(desk.worker())) == 2
    assert await desk.counters() == (2, 2)


async def test_only_the_attempt_that_holds_a_run_ends_it(desk: Desk, other: Desk) -> None:
    await desk.accept()
    await other.accept()
    claimed = await claim(desk.worker())
    [run] = [run for run in claimed if run.user_id == desk.user.user_id]
    for wrong in (
        replace(run, epoch=run.epoch - 1),
        replace(run, epoch=run.epoch + 1),
        replace(run, tenant_id=other.user.tenant_id, user_id=other.user.user_id),
    ):
        assert (await desk.worker().finish(wrong, DONE, [b"final"])).ended == "STALE"
    assert (await desk.counters(), await other.counters()) == ((1, 0), (1, 0))
    assert (await desk.worker().finish(run, DONE, [b"said", b"final"])).ended == "FINISHED"
    assert (await desk.worker().finish(run, DONE, [b"final"])).ended == "STALE"
    assert await desk.counters() == (0, 0)
    assert await desk.outbox() == [(0, b"queued"), (1, b"said"), (2, b"final")]


async def test_a_run_whose_worker_is_lost_goes_on_and_the_old_attempt_can_change_nothing(desk: Desk) -> None:
    accepted = await desk.accept()
    lost = desk.worker()
    [old] = await claim(lost, lease_seconds=0.0)
    [expired] = await desk.worker().reap(5)
    assert expired.requeued and await desk.counters() == (0, 1)
    assert await lost.renew([old.run_id], 30.0) == []
    [new] = await claim(desk.worker())
    assert accepted and (new.run_id, new.epoch) == (accepted.run_id, old.epoch + 1)
    assert (await lost.finish(old, DONE, [b"final"])).ended == "STALE"
    assert await lost.renew([old.run_id], 30.0) == []


async def test_a_worker_that_renews_keeps_its_runs(desk: Desk) -> None:
    await desk.accept()
    queue = desk.worker()
    [run] = await claim(queue, lease_seconds=0.0)
    [held] = await queue.renew([run.run_id], 30.0)
    assert (held.run_id, held.epoch, held.cancel_requested) == (run.run_id, run.epoch, False)
    assert await queue.reap(5) == []
    ended = await queue.finish(run, domain.died("lost"), [b"died"], only_expired=True)
    assert ended.ended == "STALE"


async def test_a_run_that_loses_too_many_workers_is_told_and_ends_once(desk: Desk) -> None:
    await desk.accept()
    queue = desk.worker()
    for _ in range(2):
        await claim(queue, lease_seconds=0.0)
        [expired] = await queue.reap(2)
    assert expired.hopeless and not expired.requeued
    ends = [await queue.finish(expired, domain.died("lost"), [b"died"], only_expired=True) for _ in range(2)]
    assert [end.ended for end in ends] == ["FINISHED", "STALE"]
    assert await desk.counters() == (0, 0)


async def test_what_is_given_back_keeps_its_place_and_counts_as_no_loss(desk: Desk) -> None:
    first = await desk.accept()
    await desk.accept()
    queue = desk.worker()
    for _ in range(6):
        [run] = await claim(queue, running_limit=1)
        assert first and run.run_id == first.run_id
        assert await desk.worker().give_back([run.run_id]) == 0  # another's
        assert await queue.give_back([run.run_id]) == 1
    assert await desk.counters() == (0, 2)


async def test_a_queued_run_is_cancelled_at_once_and_a_running_one_by_its_worker(desk: Desk, other: Desk) -> None:
    running, queued = await desk.accept(), await desk.accept()
    assert running and queued
    queue = desk.worker()
    [run] = await claim(queue, running_limit=1)
    assert await other.cancel(queued.run_id) is None and await other.get(queued.run_id) is None
    for _ in range(2):
        cancelled = await desk.cancel(queued.run_id)
        assert cancelled and cancelled.state is State.CANCELLED
        cancelling = await desk.cancel(running.run_id)
        assert cancelling and cancelling.state is State.CANCELLING
    [held] = await queue.renew([run.run_id], 30.0)
    assert (held.cancel_requested, held.cancel_reason) == (True, "enough")
    assert (await queue.finish(run, DONE, [b"final"])).ended == "CANCELLING"
    assert (await queue.finish(run, domain.cancelled("enough"), [b"final"])).ended == "FINISHED"
    ended = await desk.cancel(running.run_id)
    assert ended and ended.state is State.CANCELLED
    assert await desk.counters() == (0, 0)


async def test_the_relay_is_given_what_is_overdue_in_order_and_once_at_a_time(desk: Desk) -> None:
    await desk.accept()
    queue = desk.worker()
    [run] = await claim(queue)
    await queue.finish(run, DONE, [b"said", b"final"])
    due = await eventually(lambda: queue.take_due(10, 30.0))
    assert [(row.position, row.event, row.epoch, row.grant) for row in due] == [
        (0, b"queued", 1, b"grant"),
        (1, b"said", 1, b"grant"),
        (2, b"final", 1, b"grant"),
    ]
    assert await desk.worker().take_due(10, 30.0) == []
    await queue.delete_sent([Sent(run.tenant_id, run.user_id, run.run_id, 1)])
    assert await desk.outbox() == [(2, b"final")]


async def test_pages_hold_every_run_once_and_a_token_is_good_for_its_own_list(desk: Desk, other: Desk) -> None:
    await other.accept()
    accepted = [run.run_id for run in [await desk.accept() for _ in range(5)] if run]
    listed, token = [], ""
    while True:
        request = ListRequest.checked(2, token, [], "")
        async with desk.sessions.open(desk.user, "call-7") as connection:
            runs, more = await Runs(connection, desk.user).list(request)
        listed += [run.run_id for run in runs]
        if not more:
            break
        token = request.token_after(runs[-1])
    assert listed == accepted[::-1]


@pytest.mark.parametrize("name", ["ACCEPT", "GET", "CANCEL", "LIST"])
async def test_without_its_filter_a_statement_still_finds_only_own_rows(desk: Desk, other: Desk, name: str) -> None:
    foreign = await other.accept()
    assert foreign
    statement = str(getattr(repository, name))
    assert OWN in statement
    values = {
        "run_id": foreign.run_id,
        **dict.fromkeys(("thread_id", "agent", "request_id", "input_json", "reason"), "x"),
        **dict.fromkeys(("request_digest", "grant_bytes", "event"), b"x"),
        **{"tenant_id": other.user.tenant_id, "user_id": other.user.user_id},
        **ACCEPT_VALUES,
        **{"page_size": 9, "states": [], "create_time": LATEST},
    }
    if name == "LIST":
        values |= {"thread_id": "", "run_id": ""}
    stripped = text(statement.replace(OWN, "true"))
    needed = {key: value for key, value in values.items() if f":{key}" in str(stripped)}
    try:
        async with desk.sessions.open(desk.user, "call-8") as connection:
            assert (await connection.execute(stripped, needed)).all() == []
    except PostgresError as error:
        assert name == "ACCEPT" and "row-level security" in str(error)  # to write for another user is refused outright
    assert await other.get(foreign.run_id) == foreign
