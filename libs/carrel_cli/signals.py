"""Being asked to stop, as an event: for commands that have something to put away first."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The work was ended because somebody asked to stop."""


@contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """The event is set at Ctrl-C, SIGTERM or when the terminal goes; a second signal changes nothing while we stop."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in _NUMBERS:
        loop.add_signal_handler(number, asked.set)
    try:
        yield asked
    finally:
        for number in _NUMBERS:
            loop.remove_signal_handler(number)


async def unless(asked: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work; Stopped, and the work cancelled to its end, when the event comes first."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Stopped
        return working.result()
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
