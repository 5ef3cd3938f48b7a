"""The sandbox of this service: whose turn it is, and where the code of tools runs. It knows no SQL and no tool."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from carrel_chassis.sandbox.level import Standing
from carrel_chassis.sandbox.pool import Pool
from carrel_tools.limits import Turns
from carrel_tools.tool_sources import source_roots

Owner = tuple[str, str]

MODULES = tuple(
    f"carrel_tools.sandbox.{name}"
    for name in ("querying", "checking", "searching", "functions", "interpreter", "preloaded")
)
"""What the process has loaded that the others are forked from."""
_ROOT = Path(__file__).resolve().parents[2]
_MIB = 1024 * 1024


class Sandbox:
    """Runs calls in processes of their own, at the greatest level of this machine; so many at a time, and fewer of each user."""

    def __init__(self, turns: Turns, standing: Standing, memory_mb: int, tool_modules: Sequence[str] = ()) -> None:
        """`tool_modules` hold functions that are tools: they are loaded beside the own modules."""
        self._turns = turns
        self.standing = standing
        self.memory_mb = memory_mb
        """What a query may use."""
        self._pool = Pool([*MODULES, *tool_modules], standing.level, [_ROOT, *source_roots(tool_modules)])

    @asynccontextmanager
    async def turn(self, owner: Owner, memory_mb: int, files_bytes: int) -> AsyncIterator[Pool]:
        """Waits for a turn of a call that may use so much memory and reads files of so many bytes, which lie in memory too.

        What a call reads is opened within it, so that whoever waits holds no memory. Raises LIMIT_EXCEEDED.
        """
        async with self._turns.turn(owner, memory_mb + -(-files_bytes // _MIB)):
            yield self._pool

    async def start(self) -> None:
        """Starts the process that the others are forked from; without this the first call does."""
        await self._pool.start()

    async def close(self) -> None:
        """Ends that process and all that was forked from it."""
        await self._pool.close()
