"""What a long history costs: a resume over 10,000 events, append, resume and list in a table of millions, appends during retention."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import asyncpg

from carrel_chassis.db.engine import cross_user_engine
from carrel_events.retention import Retention
from carrel_events.settings import EventsSettings
from tests.bench.events_users import Crowd, User, crowd
from tests.bench.load import durations
from tests.bench.report import Figure, percentile

ROWS = (1_000, int(os.environ.get("CARREL_BENCH_ROWS", "5000000")))
"""The sizes of the table; fewer rows at the end make it quicker."""
OTHER_USERS = 5_000
RESUMED = 10_000
TIMES = 200

# Other users' events, made by the server itself: bodies like those of real events, all indexes kept.
_FILL = """
    INSERT INTO events.event (tenant_id, user_id, log_offset, event_id, run_id, thread_id, type, create_time, body, segment)
    SELECT 'tenant-' || n % $3, 'user-' || n % $3, n / $3 + 1, 'event-' || n, 'run-' || n % $3 || '-' || n / $3 / 20, 'thread-1',
        'agent_thinking', now(), decode(repeat(md5(n::text), 12), 'hex'), 0
    FROM generate_series($1::bigint, $2::bigint - 1) AS n
"""
_HEADS = """
    INSERT INTO events.user_log (tenant_id, user_id, last_offset)
    SELECT 'tenant-' || n, 'user-' || n, (SELECT count(*) FROM events.event WHERE tenant_id = 'tenant-' || n AND user_id = 'user-' || n)
    FROM generate_series(0, $1::bigint - 1) AS n
    ON CONFLICT (tenant_id, user_id) DO UPDATE SET last_offset = EXCLUDED.last_offset
"""
_CHUNK = 500_000


async def _fill(people: Crowd, begin: int, end: int) -> None:
    connection = await asyncpg.connect(people.system.database_url("postgres", driver="postgresql"))
    try:
        for first in range(begin, end, _CHUNK):
            await connection.execute(_FILL, first, min(first + _CHUNK, end), OTHER_USERS)
        await connection.execute(_HEADS, OTHER_USERS)
        await connection.execute("VACUUM (ANALYZE) events.event")
        await connection.execute("VACUUM (ANALYZE) events.user_log")
    finally:
        await connection.close()


async def _resumed(user: User, count: int) -> float:
    """Seconds from the call to the last of the user's events."""
    begin, received = time.perf_counter(), 0
    stream = user.subscribe()
    while received < count:
        received += len((await stream.read()).events)
    stream.cancel()
    return time.perf_counter() - begin


async def _percentiles(call: Callable[[], Awaitable[object]], count: int) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    taken = [seconds * 1e3 for seconds in await durations(call, count=count)]
    return percentile(taken, 0.5), percentile(taken, 0.99)


async def _median(call: Callable[[], Awaitable[object]]) -> float:
    return (await _percentiles(call, TIMES))[0]


async def _costs(people: Crowd) -> dict[str, float]:
    """Of an append, a resume over 100 events and a list of 100, for a user with 100 events."""
    [user] = people.users(1)
    await user.append(100)
    await _median(lambda: user.list(page_size=100))
    resume = await _median(lambda: _resumed(user, 100))
    listed = await _median(lambda: user.list(page_size=100))
    return {"resume": resume, "list": listed, "append": await _median(user.append)}


async def _long_resume(people: Crowd) -> list[Figure]:
    [user] = people.users(1)
    for _ in range(RESUMED // 1000):
        await user.append(1000)
    taken = [await _resumed(user, RESUMED) for _ in range(5)]
    conditions = f"{RESUMED} events of 400 bytes from the log, the median of 5"
    return [Figure("events/resume", percentile(taken, 0.5) * 1e3, "ms", "< 200", conditions=conditions)]


# All that was written so far is two days old, in a segment that has ended.
_AGE = """
    UPDATE events.segment SET begin_time = now() - interval '49 hours', end_time = now() - interval '48 hours' WHERE number = 0;
    UPDATE events.segment SET begin_time = now() WHERE number = 1;
"""


async def _while_retained(people: Crowd) -> list[Figure]:
    """Appends while the large segment is looked through, trimmed and emptied."""
    connection = await asyncpg.connect(people.system.database_url("postgres", driver="postgresql"))
    environment = people.system.stack.service_environment("events")
    told = {name.removeprefix("CARREL_").lower(): value for name, value in environment.items()}
    engine = cross_user_engine(people.system.database_url("carrel_events_retention"), 2)
    [user] = people.users(1)
    await user.append()
    before = await _percentiles(user.append, TIMES)
    await connection.execute(_AGE)
    begin = time.perf_counter()
    keeping = asyncio.create_task(Retention(engine, EventsSettings(**{**told, "keep_events": 100})).once())
    taken = []
    while not keeping.done():
        one = time.perf_counter()
        await user.append()
        taken.append((time.perf_counter() - one) * 1e3)
    await keeping
    seconds = time.perf_counter() - begin
    kept = await connection.fetchval("SELECT count(*) FROM events.event WHERE segment = -1")
    await connection.close()
    await engine.dispose()
    conditions = (
        f"{ROWS[1]:,} rows went and {kept:,} were carried over in {seconds:.1f} s; {len(taken)} appends meanwhile"
    )
    p50, p99 = percentile(taken, 0.5), percentile(taken, 0.99)
    return [
        Figure("events/append p50 during retention", p50, "ms", "", before[0], p50 / before[0], conditions),
        Figure("events/append p99 during retention", p99, "ms", "", before[1], p99 / before[1], conditions),
        Figure("events/append longest during retention", max(taken), "ms", conditions=conditions),
    ]


async def measure() -> list[Figure]:
    async with crowd(CARREL_RETENTION_INTERVAL_SECONDS="86400") as people:
        figures = await _long_resume(people)
        small = large = {}
        for before, rows in zip((0, *ROWS), ROWS, strict=False):
            await _fill(people, before, rows)
            small, large = large, await _costs(people)
        figures += await _while_retained(people)
    for what, milliseconds in large.items():
        ratio = milliseconds / small[what]
        conditions = f"{ROWS[1]:,} rows in the table against {ROWS[0]:,}; p50 of {TIMES}"
        name = f"events/{what} in a large table"
        figures.append(Figure(name, milliseconds, "ms", "ratio < 1.5", small[what], ratio, conditions))
    return figures
