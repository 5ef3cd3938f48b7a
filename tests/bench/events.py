"""The log of a user at work: from an append to its delivery, and how many appends there are in a second."""

from __future__ import annotations

import asyncio
import time

from tests.bench.events_users import Crowd, User, cores, crowd
from tests.bench.report import Figure, percentile

IDLE_APPENDS = 400
APPEND_SECONDS = 4.0


async def _deliveries(user: User, count: int) -> list[float]:
    """Seconds from the call of an append to its arrival at an open stream, one at a time."""
    stream = user.subscribe()
    await stream.read()
    taken = []
    for _ in range(count):
        begin = time.perf_counter()
        append = asyncio.create_task(user.append())
        while not (await stream.read()).events:
            pass
        taken.append(time.perf_counter() - begin)
        await append
    stream.cancel()
    return taken


async def _append_rate(users: list[User]) -> tuple[float, list[float]]:
    """Appends of one event per second, each user one at a time; and the seconds of each."""
    taken: list[float] = []
    end = time.perf_counter() + APPEND_SECONDS

    async def loop(user: User) -> None:
        while (begin := time.perf_counter()) < end:
            await user.append()
            taken.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*map(loop, users))
    return len(taken) / (time.perf_counter() - begin), taken


async def _measure(people: Crowd) -> list[Figure]:
    [user] = people.users(1)
    await _deliveries(user, 100)
    idle = await _deliveries(user, IDLE_APPENDS)
    figures = [
        Figure("events/delivery p50 idle", percentile(idle, 0.5) * 1e3, "ms", "< 3", conditions="append to delivery"),
        Figure("events/delivery p99 idle", percentile(idle, 0.99) * 1e3, "ms", "< 15", conditions="append to delivery"),
    ]
    for count in (1, 10, 100):
        users = people.users(count)
        await asyncio.gather(*(user.append() for user in users))
        per_second, taken = await _append_rate(users)
        name = f"events/append {count} user{'s' if count > 1 else ''}"
        conditions = f"one event an append, each user one at a time; {cores()}"
        figures += [
            Figure(name, per_second, "appends/s", conditions=conditions),
            Figure(f"{name} p50", percentile(taken, 0.5) * 1e3, "ms", conditions=conditions),
            Figure(f"{name} p99", percentile(taken, 0.99) * 1e3, "ms", conditions=conditions),
        ]
    return figures


async def measure() -> list[Figure]:
    async with crowd() as people:
        return await _measure(people)
