"""How much the statements of the queue read: what they are about, however much else there is. Counted by PostgreSQL, not timed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
import pytest_asyncio
from sqlalchemy import text

from carrel_execution import domain
from carrel_execution.domain import ListRequest
from carrel_execution.runs.repository import Runs
from carrel_execution.runs.start import Offer, QueueLimits
from tests.execution.conftest import NOW, Desk
from tests.support.expect import eventually

AsOwner = Callable[[str], Awaitable[None]]
LATER = NOW + timedelta(days=1)
DONE = domain.succeeded({"done": True})
LIMITS = QueueLimits(10_000, time=NOW)
OFFER = Offer("worker-with-room", "")
_FLUSH = text("SELECT pg_stat_force_next_flush()")
_CONNECTED = text("""
    SELECT count(*) FROM pg_stat_activity WHERE usename IN ('carrel_execution', 'carrel_execution_runner') AND pid <> pg_backend_pid()
""")
_READ = text("""
    SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables
    WHERE schemaname = 'execution' AND relname IN ('run', 'user_slot', 'tenant_slot', 'outbox')
""")


@pytest_asyncio.fixture(autouse=True)
async def alone(desk: Desk, as_owner: AsOwner) -> None:
    """What the tests before have read is told by now: a connection that is idle may keep it to itself for ten seconds. And their tenants
    are gone: a claim looks at each that has a limit or a weight."""
    await as_owner("TRUNCATE tenant_slot")
    await desk.sessions.engine.dispose()
    await desk.runner.dispose()

    async def gone() -> bool:
        async with desk.runner.begin() as connection:
            return (await connection.execute(_CONNECTED)).scalar_one() == 0

    await eventually(gone)


async def rows_read(desk: Desk) -> int:
    """So far, by all connections of the desk."""
    for engine in (desk.runner.begin(), desk.sessions.open(desk.user, "call-count")):
        async with engine as connection:
            await connection.execute(_FLUSH)
    async with desk.runner.begin() as connection:
        return int((await connection.execute(_READ)).scalar_one())


async def reads_of(desk: Desk, work: Callable[[], Awaitable[object]]) -> int:
    before = await rows_read(desk)
    await work()
    return await rows_read(desk) - before


@pytest.mark.parametrize("known_after", [None, 0, 99], ids=["nothing known", "known when few", "known when many"])
async def test_a_run_reads_no_more_when_its_user_has_had_hundreds(
    desk: Desk, as_owner: AsOwner, known_after: int | None
) -> None:
    """Whatever PostgreSQL believes of the tables: it looks at them when it pleases, and plans are kept."""
    queue = desk.worker()
    request = ListRequest.checked(1, "", [], "")

    async def live() -> None:
        accepted = await desk.start()
        await desk.accept(accepted.run_id.replace("run", "request"))
        for run in await queue.claim(1, lease_seconds=30.0, running_limit=4):
            await queue.renew([run.run_id], 30.0)
            await queue.finish(run, DONE, [b"final"])
        started = await desk.try_accept("", LIMITS, offer=OFFER, thread_id="thread-bills")
        # Claimed above when its turn came; this one waits.
        waiting = await desk.start(earliest_start_time=LATER)
        await desk.cancel(accepted.run_id)
        await desk.cancel(waiting.run_id)
        async with desk.sessions.open(desk.user, "call-7") as connection:
            await Runs(connection, desk.user).list(request)
        await queue.reap(5)
        await queue.wake_due(10)
        await queue.end_overdue(10)
        assert started

    for number in range(100):
        await live()
        for run in await queue.claim(9, lease_seconds=30.0, running_limit=1000):
            await queue.finish(run, DONE, [b"final"])
        if number == known_after:
            await as_owner("ANALYZE")
    assert await reads_of(desk, live) < 60


@pytest.mark.parametrize("known", [False, True])
async def test_a_claim_reads_what_it_takes_however_many_wait(desk: Desk, as_owner: AsOwner, known: bool) -> None:
    queue = desk.worker()
    for _ in range(20):
        colleague = desk.colleague()
        for number in range(30):
            await colleague.start(thread_id=f"thread-{number % 3}", priority=number)
    if known:
        await as_owner("ANALYZE")

    async def take() -> None:
        assert len(await queue.claim(2, lease_seconds=30.0, running_limit=4)) == 2

    for _ in range(5):
        await take()
    assert await reads_of(desk, take) < 20
