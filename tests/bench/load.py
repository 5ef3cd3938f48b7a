"""Load: calls in a closed loop, counted and timed. The generator runs on the same cores as what it measures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

Call = Callable[[], Awaitable[object]]


async def rate(call: Call, *, at_once: int, seconds: float) -> float:
    """Calls per second with so many under way all the time."""
    done = 0
    end = time.perf_counter() + seconds

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            done += 1

    begin = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(at_once)))
    return done / (time.perf_counter() - begin)


async def durations(call: Call, *, count: int) -> list[float]:
    """Seconds of each of so many calls, one after the other."""
    taken = []
    for _ in range(count):
        begin = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begin)
    return taken
