"""Ending in order when the terminal or the operating system asks for it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT (Ctrl-C), SIGTERM or SIGHUP cancels what the task does inside, whether it starts, waits or works.

    The block then ends as if it had come to its end, its own clean-up done; later signals do not disturb that.
    Outermost: `with ended_by_signals(): async with Stack(...) as stack: await stack.ready(); await until_ended()`.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    asked: list[int] = []

    def ask(number: int) -> None:
        if not asked and task is not None:
            task.cancel()
        asked.append(number)

    for number in _NUMBERS:
        loop.add_signal_handler(number, ask, number)
    try:
        yield
    except asyncio.CancelledError:
        if not asked or task is None or task.uncancel() > 0:
            raise
    finally:
        for number in _NUMBERS:
            loop.remove_signal_handler(number)


async def until_ended() -> None:
    """Waits to be cancelled."""
    await asyncio.get_running_loop().create_future()


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Runs work that must not be left half done; a cancellation meanwhile is raised when it is done."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """All at once; when one fails the others are ended before its error goes on, so that none starts something later."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
