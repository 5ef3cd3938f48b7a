"""What the database itself holds: steps are written for the attempt that holds its run, and for no other."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from sqlalchemy import text

from carrel.replay import Ask, StepKind, StepRecord, StepState, WaitKind, WaitState
from carrel_chassis.ids import new_id
from carrel_execution.domain import ClaimedRun, succeeded
from carrel_execution.journal.repository import Journals
from carrel_execution.journal.store import JournalStore, Standing
from tests.execution.conftest import Desk
from tests.support.expect import eventually

DONE = StepRecord("1", StepKind.LOCAL, "work", "", StepState.SUCCEEDED, "7")
RUNNING = Standing("RUNNING")


async def claimed(desk: Desk) -> ClaimedRun:
    """A run of the user, held by a worker."""
    await desk.accept()
    [run] = await desk.worker().claim(1, lease_seconds=60, running_limit=9)
    return run


async def results(store: JournalStore, run: ClaimedRun) -> dict[str, str]:
    """What the journal has, as a later attempt reads it."""
    journal = await store.read(run)
    found = (journal.find(place, StepKind.LOCAL, "work", "")[1] for place in ("1", "2", "3"))
    return {step.step_id: step.result_json for step in found if step is not None}


async def test_steps_of_many_runs_are_written_together(desk: Desk, other: Desk) -> None:
    store = JournalStore(desk.runner)
    runs = [await claimed(each) for each in (desk, other, desk, other)]
    steps = [[replace(DONE, step_id=place, result_json=run.run_id) for place in ("1", "2")] for run in runs]
    written = await asyncio.gather(*(store.write(run, some) for run, some in zip(runs, steps, strict=True)))
    assert written == [RUNNING] * 4
    for run in runs:
        assert await results(store, run) == {"1": run.run_id, "2": run.run_id}


async def test_an_old_attempt_writes_nothing_though_it_is_batched_with_others(desk: Desk, other: Desk) -> None:
    store = JournalStore(desk.runner)
    run, another = await claimed(desk), await claimed(other)
    old = replace(run, epoch=run.epoch - 1)
    written = await asyncio.gather(store.write(old, [DONE]), store.write(another, [DONE]))
    assert written == [Standing("STALE"), RUNNING]
    assert (await results(store, run), await results(store, another)) == ({}, {"1": "7"})


async def test_a_cancelled_run_takes_no_more_steps_and_says_why(desk: Desk) -> None:
    store = JournalStore(desk.runner)
    run = await claimed(desk)
    await desk.cancel(run.run_id)
    assert await store.write(run, [DONE]) == Standing("CANCELLING", "enough")
    assert await results(store, run) == {}


async def test_a_run_that_is_over_takes_no_more_steps(desk: Desk) -> None:
    store, worker = JournalStore(desk.runner), desk.worker()
    run = await claimed(desk)
    await worker.finish(run, succeeded(1), [b"final"])
    assert await store.write(run, [DONE]) == Standing("STALE")
    assert await results(store, run) == {}


async def test_a_claim_waits_for_the_step_that_is_being_written(desk: Desk) -> None:
    """The run is held until the step is committed: what the next attempt reads is all that there ever will be."""
    store, run = JournalStore(desk.runner), await claimed(desk)
    async with desk.runner.begin() as connection:
        share = "SELECT FROM run WHERE run_id = :run_id FOR SHARE"  # as write_steps holds it
        await connection.execute(text(share), {"run_id": run.run_id})
        taken = asyncio.create_task(desk.worker().finish(run, succeeded(1), [b"final"]))

        async def blocked() -> bool:
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%finish_run%'"
            )
            async with desk.runner.begin() as another:
                return bool((await another.execute(text(waiting))).scalar_one())

        await eventually(blocked)
        assert not taken.done()
    assert (await taken).ended == "FINISHED"
    assert await store.write(run, [DONE]) == Standing("STALE")


async def test_the_same_step_may_be_written_again_by_its_attempt(desk: Desk) -> None:
    """Its answer may have been lost on the way."""
    store, run = JournalStore(desk.runner), await claimed(desk)
    intent = replace(DONE, state=StepState.INTENDED, result_json="")
    for step in (intent, intent, DONE, DONE):
        assert await store.write(run, [step]) == RUNNING
    assert await results(store, run) == {"1": "7"}


async def test_only_who_holds_a_run_lets_it_wait(desk: Desk) -> None:
    store, run = JournalStore(desk.runner), await claimed(desk)
    ask = Ask("wait-of-a-test", "1", WaitKind.INPUT, "echo", "What?", "", time.time() + 60)
    assert (await store.park(replace(run, epoch=0), [ask], [b"asked"])).parked == "STALE"
    assert (await store.park(run, [ask], [b"asked"])).parked == "WAITING"
    assert await desk.counters() == (0, 0)
    assert (await store.park(run, [ask], [b"asked"])).parked == "STALE"
    assert [event for _, event in await desk.outbox()].count(b"asked") == 1


async def test_a_run_that_its_user_has_cancelled_does_not_wait(desk: Desk) -> None:
    store, run = JournalStore(desk.runner), await claimed(desk)
    ask = Ask("wait-of-another-test", "1", WaitKind.INPUT, "echo", "What?", "", time.time() + 60)
    await desk.cancel(run.run_id)
    parked = await store.park(run, [ask], [b"asked"])
    assert (parked.parked, parked.reason) == ("CANCELLING", "enough")
    assert b"asked" not in [event for _, event in await desk.outbox()]


async def test_a_run_whose_answer_is_there_already_goes_on_at_once(desk: Desk) -> None:
    store, run = JournalStore(desk.runner), await claimed(desk)
    ask = Ask("wait-of-an-answer", "1", WaitKind.INPUT, "echo", "What?", "", time.time() + 60)
    await store.park(run, [ask], [])
    async with desk.sessions.open(desk.user, new_id("call")) as connection:
        wait = await Journals(connection, desk.user).resolve_wait(ask.wait_id, WaitState.RESOLVED, "7", b"answered")
    assert (wait.state, await desk.counters()) == (WaitState.RESOLVED, (0, 1))
    [again] = await desk.worker().claim(1, lease_seconds=60, running_limit=9)
    found = (await store.read(again)).wait("1", WaitKind.INPUT, "", "")
    assert found is not None and found.answer_json == "7"
    assert (await store.park(again, [ask], [])).parked == "QUEUED"
    assert await desk.counters() == (0, 1)


async def test_what_nobody_has_answered_in_time_ends_once_and_its_run_goes_on(desk: Desk, other: Desk) -> None:
    store = JournalStore(desk.runner)
    for each, seconds in ((desk, -1.0), (other, 60.0)):
        ask = Ask(f"wait-of-{each.user.user_id}", "1", WaitKind.INPUT, "echo", "What?", "", time.time() + seconds)
        await store.park(await claimed(each), [ask], [])
    expired = await asyncio.gather(*(store.expire(time.time()) for _ in range(3)))
    assert sum(expired) == 1 and await store.expire(time.time()) == 0
    assert (await desk.counters(), await other.counters()) == ((0, 1), (0, 0))
    assert len(await desk.outbox()) == 2  # the run was queued, the question has expired
