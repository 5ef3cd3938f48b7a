"""The whole system with two processes that work on runs; each of its processes can be killed or paused, and all commits are recorded."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from carrel_chassis.stack import Stack
from carrel_chassis.stack.health import until_serving
from carrel_chassis.stack.ports import free_ports
from carrel_chassis.stack.process import ChildProcess, Command
from tests.chaos.commits import POSTGRES_SETTINGS
from tests.chaos.run_record import Record, recorded
from tests.support.system import System, test_settings

RUNNING_LIMIT = 2
LEASE_SECONDS = 1.5
WORKERS = ("execution", "execution-2")
_SETTINGS = {
    "CARREL_LEASE_SECONDS": str(LEASE_SECONDS),
    "CARREL_POLL_SECONDS": "0.3",
    "CARREL_CANCEL_SECONDS": "0.5",
    "CARREL_RUNNING_RUNS_PER_USER": str(RUNNING_LIMIT),
    # Each of the two is full soon, so that both have work.
    "CARREL_WORKER_CAPACITY": "5",
    # No number of lost workers makes a run DEAD: it must go on however often it is hit.
    "CARREL_MAX_ATTEMPTS": "1000",
    "CARREL_LOG_LEVEL": "WARNING",
    "CARREL_AGENT_MODULES": "tests.chaos.run_agents",
}
"""Times that make a round short, and limits that make it crowded; nothing else differs from production."""


class RunStack:
    """The running system. Whatever dies is started again by itself."""

    def __init__(self, record: Record, second: ChildProcess) -> None:
        self.record = record
        self.system = record.system
        self.stack = record.system.stack
        self._second = second

    @property
    def victims(self) -> tuple[str, ...]:
        """What can be killed or paused."""
        return (*WORKERS, "context", "tools", "events", "gateway", "nats", "postgres")

    def pids(self) -> Mapping[str, int]:
        second = {"execution-2": self._second.pid} if self._second.pid is not None else {}
        return {**self.stack.pids(), **second}

    def signal(self, victim: str, number: signal.Signals) -> None:
        """Sends a signal to whatever has this name now."""
        if victim == "execution-2":
            self._second.kill(number)
        else:
            self.stack.kill(victim, number)


@asynccontextmanager
async def run_stack(data_dir: Path, **environment: str) -> AsyncIterator[RunStack]:
    """Everything, until the end of the block."""
    async with AsyncExitStack() as stack:
        # fsync on: a PostgreSQL that is killed must have kept what it acknowledged.
        base = test_settings(data_dir).service_environment
        settings = test_settings(
            data_dir,
            fast=False,
            postgres_settings=POSTGRES_SETTINGS,
            service_environment={**base, **_SETTINGS, **environment},
        )
        engines = await stack.enter_async_context(Stack(settings))
        await engines.ready(60)
        second = ChildProcess(_second_worker(engines, data_dir))
        await second.start()
        stack.push_async_callback(second.stop)
        await until_serving(second.command.environment["CARREL_LISTEN"], second.command.environment, lambda: None)
        record = await recorded(System(engines), engines.admin_url_of("carrel"))
        running = RunStack(record, second)
        stack.push_async_callback(running.system.close)
        stack.callback(_awaken, running)
        yield running


def _second_worker(stack: Stack, data_dir: Path) -> Command:
    [port] = free_ports(1)
    return Command(
        name="execution-2",
        arguments=[sys.executable, "-P", "-m", "carrel_execution"],
        environment={
            **stack.service_environment("execution"),
            "CARREL_LISTEN": f"127.0.0.1:{port}",
            "CARREL_METRICS_LISTEN": "",
        },
        log=data_dir / "logs" / "execution-2.log",
        folder=data_dir,
    )


def _awaken(running: RunStack) -> None:
    """What is still paused could not stop."""
    for victim in running.pids():
        running.signal(victim, signal.SIGCONT)
