"""Slow readers: messages are written by a hand that knows how long each write takes. It knows no events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from carrel_chassis.errors import CarrelError, Kind
from carrel_events.domain import Cursor

T = TypeVar("T")


class PacedWriter(Generic[T]):
    """Writes messages as long as the reader makes room in time. gRPC holds a write back when its own buffers are full.

    `seconds` is how long one write may take; None waits for as long as the call lives.
    """

    def __init__(self, write: Callable[[T], Awaitable[None]], seconds: float | None, position: Cursor) -> None:
        self._write = write
        self._seconds = seconds
        self._position = position

    async def write(self, message: T, position: Cursor) -> None:
        """Writes a message that takes the reader to `position`. Raises SLOW_READER, with the position before it, when that takes too
        long: the message may still arrive, and a reader who got it goes on after it."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._write(message)
        except TimeoutError:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "SLOW_READER",
                f"The stream was not read for {self._seconds:g} s; subscribe again after the last position and read faster.",
                metadata=self._position.metadata(),
            ) from None
        self._position = position
