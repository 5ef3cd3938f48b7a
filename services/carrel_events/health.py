"""Health of what event-stream stands on: without the bus it is slower, without the database it takes no appends, and it says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from carrel_chassis.errors import CarrelError

_LOOK_SECONDS = 1.0

Say = Callable[[str, bool], Awaitable[None]]


async def report(bus_connected: Callable[[], bool], ask_database: Callable[[], Awaitable[object]], say: Say) -> None:
    """Says under the names "bus" and "database" whether they are there. For ever, as a task beside the server.

    The process itself stays SERVING: its streams stay open and heal, and whoever appends is told to try again.
    """
    while True:
        await say("bus", bus_connected())
        await say("database", await _answers(ask_database))
        await asyncio.sleep(_LOOK_SECONDS)


async def _answers(ask_database: Callable[[], Awaitable[object]]) -> bool:
    try:
        await ask_database()
    except CarrelError:
        return False
    return True
