"""Puts what agents may do to a process under guard: where they run, what they leave, and a loop that they must not keep."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TextIO

from carrel_chassis.logs import get_logger
from carrel_execution.agents.factory import InstanceFactory
from carrel_execution.agents.in_loop import forbid_forks, guard_loop
from carrel_execution.agents.isolation.host import ProcessHost
from carrel_execution.agents.last_resort import LastResort
from carrel_execution.agents.registry import AgentRegistry
from carrel_execution.agents.watchdog import Watchdog, agents_named_in
from carrel_execution.attempt.attempt import Attempt
from carrel_execution.settings import ExecutionSettings

_LONGEST_GRACE_SECONDS = 1.0


@asynccontextmanager
async def instance_factory(settings: ExecutionSettings, registry: AgentRegistry) -> AsyncIterator[InstanceFactory]:
    """The factory of this process. An agent that kept the interpreter before the last start runs in processes from now on."""
    guard_loop(asyncio.get_running_loop())
    forbid_forks()
    for module, trace in registry.skipped.items():
        get_logger().error("agents.skipped", module=module, exception=trace)
    processes = ProcessHost([module for module in settings.modules if module not in registry.skipped])
    stuck = agents_named_in(_word_left(settings.stuck_file), registry.classes.values())
    for name in sorted(stuck):
        get_logger().error("agent.isolated", agent=name, why="it kept the interpreter, and its process was ended")
    factory = InstanceFactory(
        registry,
        processes,
        isolated={*settings.isolated, *stuck},
        grace_seconds=min(_LONGEST_GRACE_SECONDS, settings.cancel_seconds / 2),
    )
    try:
        if any(map(factory.is_isolated, registry.names)):
            await processes.start()
        yield factory
    finally:
        await processes.close()


@contextmanager
def watched_loop(
    settings: ExecutionSettings, factory: InstanceFactory, worker: str, attempts: Mapping[tuple[str, int], Attempt]
) -> Iterator[None]:
    """For the length of the block, no agent keeps the running loop for long. `attempts` are those of this worker, as they change."""
    url = settings.runner_database_url.get_secret_value()
    with _opened(settings.stuck_file) as word:
        watchdog = Watchdog(
            settings.stuck_seconds,
            settings.lease_seconds,
            isolate=factory.isolate,
            last_resort=LastResort(url, worker, attempts),
            word_left_in=word,
        )
        watchdog.start()
        try:
            yield
        finally:
            watchdog.stop()


def _word_left(path: Path | None) -> str:
    if path is None or not path.exists():
        return ""
    return path.read_text(errors="replace")


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stderr
        return
    with path.open("a") as file:
        yield file
