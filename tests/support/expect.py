"""What tests say of refusals, and of things that take a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
import pytest

from carrel_chassis.errors import CarrelError
from carrel_chassis.rpc.status import from_rpc_error

T = TypeVar("T")


class Refusal:
    """The error of a `refused` block, after it."""

    error: CarrelError


@contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Iterator[Refusal]:
    """The block makes a call that fails with this code and this reason."""
    refusal = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield refusal
    refusal.error = from_rpc_error(raised.value)
    assert (raised.value.code(), refusal.error.reason) == (code, reason), refusal.error.message


async def eventually(look: Callable[[], Awaitable[T]], *, seconds: float = 10.0) -> T:
    """Looks until what it sees is truthy, and returns that; fails with the last look."""
    deadline = time.monotonic() + seconds
    while True:
        seen = await look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; last seen: {seen!r}")
        await asyncio.sleep(0.02)


async def room_in_the_minute(*, seconds: float = 5.0) -> None:
    """Waits for the next minute of the clock when less than so much is left of this one: what is counted by it must not begin in one
    minute and end in another."""
    left = 60 - time.time() % 60
    if left < seconds:
        await asyncio.sleep(left + 0.05)
