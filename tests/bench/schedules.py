"""What begins and goes without users: a thousand schedules due in the same moment, and old runs that retention deletes."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import asyncpg

from carrel.api.runs.v1 import schedule_service_pb2 as pb
from carrel.api.runs.v1 import schedule_service_pb2_grpc as rpc
from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.ids import new_id
from carrel_chassis.stack import Stack
from carrel_execution.runs.retention import Retention
from tests.bench.report import Figure
from tests.support.expect import eventually
from tests.support.system import Person, System, test_settings

PEOPLE = 100
EACH = 10
OLD_RUNS = 20_000
_AT_ONCE = 16

_AGE = """
    INSERT INTO execution.run (tenant_id, user_id, run_id, thread_id, own_thread, agent, state, request_id, request_digest, input_json,
        grant_bytes, create_time, start_time, finish_time, result_json)
    SELECT 'tenant-' || n % 100, 'user-' || n % 1000, 'run-old-' || n, 'thread-old-' || n, true, 'echo', 'SUCCEEDED', 'request-old-' || n,
        ''::bytea, '{}', ''::bytea, now(), now(), now() - interval '91 days' + n * interval '1 ms', repeat('x', 400)
    FROM generate_series(1, $1) AS n
"""
_STEPS = """
    INSERT INTO execution.journal_step (tenant_id, user_id, run_id, step_id, kind, name, input_digest, state, result_json, error_kind,
        error_reason, error_message, epoch, retry, create_time, finish_time)
    SELECT tenant_id, user_id, run_id, 'step-' || n, 'LOCAL', 'x', '', 'SUCCEEDED', repeat('x', 200), '', '', '', 1, 0, now(), now()
    FROM execution.run, generate_series(1, 3) AS n WHERE run_id LIKE 'run-old-%'
"""


async def _schedule(system: System, person: Person, turns: asyncio.Semaphore) -> None:
    stub: rpc.ScheduleServiceAsyncStub = rpc.ScheduleServiceStub(system.peer("agent-execution").channel)
    for _ in range(EACH):
        request = pb.CreateScheduleRequest(
            request_id=new_id("request"), cron="0 0 1 1 *", agent="echo", input_json='{"text":"x"}'
        )
        async with turns:
            await stub.CreateSchedule(request, metadata=person.metadata, timeout=30)


async def _due_at_once(system: System, admin: asyncpg.Connection) -> list[Figure]:
    """From the moment in which all are due until the last of their runs is accepted, while the first ones are at work already."""
    turns = asyncio.Semaphore(_AT_ONCE)
    people = [await system.person() for _ in range(PEOPLE)]
    begin = time.monotonic()
    await asyncio.gather(*(_schedule(system, person, turns) for person in people))
    made = PEOPLE * EACH / (time.monotonic() - begin)
    due = await admin.fetchval("UPDATE execution.schedule SET next_time = now() RETURNING next_time")

    async def started() -> bool:
        return await admin.fetchval("SELECT count(*) FROM execution.run WHERE schedule_id <> ''") == PEOPLE * EACH

    await eventually(started, seconds=120)
    query = "SELECT extract(epoch FROM max(create_time) - $1)::float8 FROM execution.run WHERE schedule_id <> ''"
    late = await admin.fetchval(query, due)
    conditions = f"{PEOPLE} users with {EACH} each, one process, their runs at work meanwhile"
    return [
        Figure("schedules/made", made, "1/s", conditions=f"{_AT_ONCE} at once"),
        Figure(f"schedules/the last of {PEOPLE * EACH} that are due at once", late, "s", conditions=conditions),
    ]


async def _deleted(system: System, admin: asyncpg.Connection) -> Figure:
    """What retention does in a second, its pauses between batches among it."""
    await admin.execute(_AGE, OLD_RUNS)
    await admin.execute(_STEPS)
    engine = cross_user_engine(system.database_url("carrel_execution_retention"), 1)
    try:
        begin = time.monotonic()
        deleted = await Retention(engine, keep_runs_days=90, clock=time.time).once()
        seconds = time.monotonic() - begin
    finally:
        await engine.dispose()
    conditions = f"{deleted:,} runs of three steps, in batches with pauses"
    return Figure("retention/runs deleted", deleted / seconds, "1/s", conditions=conditions)


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(test_settings(Path(folder) / "data", fast=False)) as stack:
            await stack.ready(60)
            system = System(stack)
            admin = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
            try:
                return [*await _due_at_once(system, admin), await _deleted(system, admin)]
            finally:
                await admin.close()
                await system.close()
