"""How fast runs are taken from the queue: 10,000 users wait, with few runs each and with a million in all."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import asyncpg

from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.db.migrate import migrate
from carrel_chassis.stack import Stack, StackSettings
from carrel_chassis.stack.roles import MIGRATOR
from carrel_execution.queue.store import Queue
from tests.bench.report import Figure, percentile

USERS = 10_000
FEW, MANY = 10, 100
"""How many runs each of the users has queued: 100,000 and 1,000,000 in all."""
WORKERS = 8
SECONDS = 2.0
ONE_AT_A_TIME = 300
_RUNNING_LIMIT = 1000

_FILL = """
    INSERT INTO execution.run (tenant_id, user_id, run_id, thread_id, own_thread, agent, request_id, request_digest, input_json,
        grant_bytes, create_time, ready)
    SELECT 'tenant-' || person % 100, 'user-' || person, format('run-%s-%s', person, number), format('thread-%s-%s', person, number),
        true, 'echo', format('request-%s-%s', person, number), ''::bytea, '{}', ''::bytea, now() + number * interval '1 ms', true
    FROM generate_series($1::int, $2::int - 1) AS number, generate_series(1, $3::int) AS person
"""
_SLOTS = """
    INSERT INTO execution.user_slot (tenant_id, user_id, queued, ready, running_limit, head_time)
    SELECT 'tenant-' || person % 100, 'user-' || person, $1::int, $1::int, $2::int, now() + person * interval '1 us'
    FROM generate_series(1, $3::int) AS person
    ON CONFLICT (tenant_id, user_id) DO UPDATE SET queued = user_slot.queued + $1::int, ready = user_slot.ready + $1::int
"""


async def _fill(admin: asyncpg.Connection, first: int, last: int) -> None:
    """Queues runs for every user, from their first to their last, as if they had been accepted."""
    await admin.execute(_FILL, first, last, USERS)
    await admin.execute(_SLOTS, last - first, _RUNNING_LIMIT, USERS)
    await admin.execute("VACUUM ANALYZE execution.run")
    await admin.execute("VACUUM ANALYZE execution.user_slot")


async def _claims_per_second(queues: list[Queue], room: int) -> float:
    """All workers claim as fast as they can, up to `room` runs at a time."""
    claimed = 0
    end = time.perf_counter() + SECONDS

    async def work(queue: Queue) -> None:
        nonlocal claimed
        while time.perf_counter() < end:
            runs = await queue.claim(room, lease_seconds=600.0, running_limit=_RUNNING_LIMIT)
            claimed += len(runs)  # after the wait: what the other workers counted meanwhile would be lost

    begin = time.perf_counter()
    await asyncio.gather(*map(work, queues))
    return claimed / (time.perf_counter() - begin)


async def _claim_alone(queue: Queue) -> list[float]:
    """Seconds of each claim of one run, one after the other."""
    taken = []
    for _ in range(ONE_AT_A_TIME):
        begin = time.perf_counter()
        assert await queue.claim(1, lease_seconds=600.0, running_limit=_RUNNING_LIMIT)
        taken.append(time.perf_counter() - begin)
    return taken


async def _measure(stack: Stack) -> list[Figure]:
    await migrate(stack.database_url(MIGRATOR), "carrel_execution")
    runner = cross_user_engine(stack.database_url("carrel_execution_runner"), WORKERS)
    admin = await asyncpg.connect(stack.admin_url_of("carrel"))
    queues = [Queue(runner, f"worker-{number}") for number in range(WORKERS)]
    figures = []
    baseline: dict[str, float] = {}
    try:
        for first, last in ((0, FEW), (FEW, MANY)):
            await _fill(admin, first, last)
            queued = await admin.fetchval("SELECT count(*) FROM execution.run WHERE ready")
            measured = {
                "rate, one at a time": await _claims_per_second(queues, 1),
                "rate, 16 at a time": await _claims_per_second(queues, 16),
                "p50 alone": percentile(await _claim_alone(queues[0]), 0.5) * 1e3,
            }
            conditions = f"{USERS} users with {queued} runs queued, {WORKERS} workers, {os.cpu_count()} cores, fsync on"
            for name, value in measured.items():
                unit = "ms" if name.startswith("p50") else "claims/s"
                goal = "> 1000" if name == "rate, 16 at a time" else ""
                figures.append(Figure(f"claims/{name}, {last} runs a user", value, unit, goal, conditions=conditions))
            if baseline:
                before, now = baseline["rate, 16 at a time"], measured["rate, 16 at a time"]
                figures.append(
                    Figure("claims/flatness", now, "claims/s", "ratio > 0.8", before, now / before, conditions)
                )
            baseline = baseline or measured
    finally:
        await admin.close()
        await runner.dispose()
    return figures


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data", only=())) as stack:
            return await _measure(stack)
