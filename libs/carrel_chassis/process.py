"""The life of a service process: settings, logs, a loop, a stop signal, and one sentence when it cannot start."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop
from pydantic import ValidationError

from carrel_chassis.errors import CannotStart, CarrelError
from carrel_chassis.logs import configure_logs, get_logger
from carrel_chassis.settings import ServiceSettings
from carrel_chassis.telemetry import configure_telemetry

S = TypeVar("S", bound=ServiceSettings)

SECRETS_DIR = "CARREL_SECRETS_DIR"
_ENDING_SECONDS = 2.0
"""How long what is left when a service has ended may take to stop. An agent that swallows its cancellation would take for ever."""


def run_service(name: str, settings_type: type[S], main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    """Reads the settings and runs `main(settings, stop)` until it returns; SIGTERM and SIGINT set `stop`.

    Exits with 2 when the settings are wrong, with 1 and one sentence when the service cannot start.
    """
    try:
        settings = read_settings(settings_type)
    except OSError as error:
        sys.exit(_say(f"{name} cannot start, its secrets cannot be read: {error}", 2))
    except ValidationError as error:
        wrong = "; ".join(f"CARREL_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        sys.exit(_say(f"{name} cannot start, its settings are wrong: {wrong}", 2))
    configure_logs(name, settings.log_level)
    configure_telemetry(name, settings)
    get_logger().info("service.starting", **settings.in_effect())
    # What was imported stays: no collection of garbage need look through it again.
    gc.collect()
    gc.freeze()
    try:
        uvloop.run(_until_stopped(settings, main))
    except (OSError, CannotStart, CarrelError) as error:
        get_logger().error("service.failed", error=str(error))
        sys.exit(_say(f"{name} cannot start: {error}", 1))
    get_logger().info("service.stopped")


def read_settings(settings_type: type[S]) -> S:
    """From the environment and, where that is silent, from the files in the folder that `CARREL_SECRETS_DIR` names.

    Raises ValidationError when a setting is missing or wrong, OSError when there is no such folder or it cannot be read.
    """
    folder = os.environ.get(SECRETS_DIR) or None
    if folder is not None:
        # Of a folder that is not there pydantic would only warn, and then miss its settings one by one.
        os.listdir(folder)
    return settings_type(_secrets_dir=folder)


async def _until_stopped(settings: S, main: Callable[[S, asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(settings, stop)
    if left := await _end_the_rest():
        get_logger().warning("service.stopped", tasks_left=left)
        # asyncio waits without a limit for tasks that do not end. All that the service itself had open is closed by now; what is
        # registered for the end of the process are the last lines of its log and its last spans.
        atexit._run_exitfuncs()
        os._exit(0)


async def _end_the_rest() -> int:
    """Cancels the tasks that are still there; how many of them do not end."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    return len((await asyncio.wait(rest, timeout=_ENDING_SECONDS))[1]) if rest else 0


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(sentence + "\n")
    return code
