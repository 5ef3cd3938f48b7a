"""Asks the sandbox whether a file is what it claims to be. It knows no table and no store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from carrel_chassis.errors import CarrelError, invalid
from carrel_chassis.sandbox.bounds import Bounds
from carrel_chassis.sandbox.pool import Pool, Usage
from carrel_tools.sandbox.sandbox import Owner, Sandbox

_SECONDS = 120.0
_SHARE = 3
"""How many times the memory of a query its process may have: functions allocate beside DuckDB's own limit."""
_CHECK = "carrel_tools.sandbox.checking:check"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file holds."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: int
    usage: Usage


class CorpusCheck:
    """Reads files whole, in processes of their own."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    @asynccontextmanager
    async def turn(self, owner: Owner, size_bytes: int) -> AsyncIterator[CheckTurn]:
        """Waits for a turn of the sandbox. The file is opened within it, so that whoever waits holds no memory."""
        async with self._sandbox.turn(owner, _SHARE * self._sandbox.memory_mb, size_bytes) as pool:
            yield CheckTurn(pool, self._sandbox.memory_mb)


class CheckTurn:
    """The right to check one file after the other."""

    def __init__(self, pool: Pool, memory_mb: int) -> None:
        self._pool = pool
        self._memory_mb = memory_mb

    async def check(self, media_type: str, descriptor: int) -> Checked:
        """What the file holds; raises CORPUS_INVALID, with the place where there is one."""
        request = {"media_type": media_type, "memory_mb": self._memory_mb}
        outcome = await self._pool.run(_CHECK, request, Bounds(_SECONDS, _SHARE * self._memory_mb), [descriptor])
        if outcome.end == "time":
            raise corpus_invalid(f"The file could not be read within {_SECONDS:g} s; split it.")
        answer = outcome.answer or {"refused": ["memory", ""]}
        if refused := answer.get("refused"):
            kind, message = refused
            raise corpus_invalid(
                message if kind == "file" else f"The file cannot be read as {media_type} with the memory of a query."
            )
        found = answer["result"]
        return Checked(tuple(found["columns"]), tuple(found["types"]), found["rows"], outcome.usage)


def corpus_invalid(message: str) -> CarrelError:
    """The file is not what it claims to be."""
    return invalid("chunk", message, "CORPUS_INVALID")
