"""Gateways as processes of their own, beside the shared system's: to be killed, started again, measured, or run by twos."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.stack.ports import free_ports
from tests.support.system import System


class GatewayProcess:
    """One gateway; it keeps its addresses when it is started again."""

    def __init__(self, system: System, **settings: str) -> None:
        grpc_port, http_port = free_ports(2)
        self.address = f"127.0.0.1:{grpc_port}"
        self.http_address = f"127.0.0.1:{http_port}"
        own = {"listen": self.address, "http_listen": self.http_address, "metrics_listen": "", "log_level": "WARNING"}
        named = {f"CARREL_{name.upper()}": value for name, value in {**own, **settings}.items()}
        self._environment = {**system.stack.service_environment("gateway"), **named}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it serves."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "carrel_gateway", env=self._environment, stdout=asyncio.subprocess.DEVNULL
        )
        channel = open_channel(self.address)
        try:
            await asyncio.wait_for(channel.channel_ready(), 15)
        finally:
            await channel.close()

    async def kill(self) -> None:
        """SIGKILL: no drain, no farewell."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, as an operator stops it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    @property
    def memory_mb(self) -> float:
        """Its resident memory."""
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    @property
    def cpu_seconds(self) -> float:
        """Its CPU time so far."""
        assert self._process is not None
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)


@asynccontextmanager
async def gateway_process(system: System, **settings: str) -> AsyncIterator[GatewayProcess]:
    """A gateway with the shared system's services behind it; settings as they stand in the environment, without the prefix."""
    process = GatewayProcess(system, **settings)
    await process.start()
    try:
        yield process
    finally:
        await process.stop()
