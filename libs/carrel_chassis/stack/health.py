"""Waiting until a service says that it serves, by the standard gRPC health check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from grpc_health.v1 import health_pb2_grpc

from carrel_chassis.probe import ask, open_channel

_PAUSE_SECONDS = 0.05


async def until_serving(address: str, environment: Mapping[str, str], check: Callable[[], None]) -> None:
    """Returns when the server at the address answers SERVING for itself (service name ""); `check` may raise meanwhile.

    `environment` is that of the service: it says whether it speaks TLS.
    """
    async with open_channel(address, environment) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while await ask(stub) != "SERVING":
            check()
            await asyncio.sleep(_PAUSE_SECONDS)
