"""Two replicas of event-stream on one PostgreSQL and one NATS, all of which may be killed or paused."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from carrel_chassis.db.migrate import migrate
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.signing import ContextSigner, ServiceSigner, read_key
from carrel_chassis.stack import Stack, StackSettings
from carrel_chassis.stack.health import until_serving
from carrel_chassis.stack.ports import free_ports
from carrel_chassis.stack.process import ChildProcess, Command
from carrel_chassis.stack.roles import MIGRATOR
from tests.chaos.lossy import LossyNats
from tests.support.forge import genuine_signer
from tests.support.system import System

NAMES = ("replica-1", "replica-2")
SETTINGS = {
    "CARREL_HEARTBEAT_SECONDS": "0.3",
    "CARREL_IDLE_CHECK_SECONDS": "0.5",
    "CARREL_SLOW_READER_SECONDS": "1",
    "CARREL_LOG_LEVEL": "WARNING",
    "CARREL_METRICS_LISTEN": "",
}
"""Times that make a round short; nothing else differs from production."""


class Replicas:
    """The running system. Whatever dies is started again by itself."""

    def __init__(self, stack: Stack, nats: LossyNats, signer: ContextSigner) -> None:
        self.stack = stack
        self.nats = nats
        self.signer = signer
        self.peers: list[Peer] = []
        self._children: dict[str, ChildProcess] = {}

    @property
    def victims(self) -> tuple[str, ...]:
        """What can be killed."""
        return (*NAMES, "nats", "postgres")

    def pids(self) -> Mapping[str, int]:
        replicas = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        return {**self.stack.pids(), **replicas}

    def signal(self, victim: str, number: signal.Signals) -> None:
        """Sends a signal to whatever has this name now."""
        if victim in self._children:
            self._children[victim].kill(number)
        else:
            self.stack.kill(victim, number)

    async def start_replica(self, name: str, data_dir: Path) -> None:
        """Starts it and waits until it serves."""
        [port] = free_ports(1)
        listen = f"127.0.0.1:{port}"
        password = self.stack.nats_url.rpartition("@")[0]
        environment = {
            **self.stack.service_environment("events"),
            **SETTINGS,
            "CARREL_LISTEN": listen,
            "CARREL_NATS_URL": f"{password}@127.0.0.1:{self.nats.port}",
        }
        command = Command(
            name=name,
            arguments=[sys.executable, "-P", "-m", "carrel_events"],
            environment=environment,
            log=data_dir / "logs" / f"{name}.log",
            folder=data_dir,
        )
        child = self._children[name] = ChildProcess(command)
        await child.start()
        await until_serving(listen, environment, lambda: None)
        key = read_key(data_dir / "keys" / "agent-execution.key")
        self.peers.append(Peer("event-stream", listen, ServiceSigner("agent-execution", key, time.time)))

    async def stop(self) -> None:
        for peer in self.peers:
            await peer.close()
        for child in self._children.values():
            child.kill(signal.SIGCONT)
            await child.stop()


@asynccontextmanager
async def replicas(data_dir: Path) -> AsyncIterator[Replicas]:
    """Everything, until the end of the block."""
    async with AsyncExitStack() as stack:
        # fsync on: a PostgreSQL that is killed must have kept what it acknowledged.
        settings = StackSettings(data_dir, only=("context",), service_environment={"CARREL_LOG_LEVEL": "WARNING"})
        engines = await stack.enter_async_context(Stack(settings))
        await engines.ready(60)
        await migrate(engines.database_url(MIGRATOR), "carrel_events")
        nats = LossyNats(engines.addresses["nats"])
        await nats.start()
        stack.push_async_callback(nats.close)
        running = Replicas(engines, nats, await genuine_signer(System(engines)))
        stack.push_async_callback(running.stop)
        for name in NAMES:
            await running.start_replica(name, data_dir)
        yield running
