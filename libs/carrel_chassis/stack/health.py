"""Waiting until a service says that it serves, by the standard gRPC health check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2_grpc

from carrel_chassis.probe import OPTIONS, ask

_PAUSE_SECONDS = 0.05


async def until_serving(address: str, check: Callable[[], None]) -> None:
    """Returns when the server at the address answers SERVING for itself (service name ""); `check` may raise meanwhile."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while await ask(stub) != "SERVING":
            check()
            await asyncio.sleep(_PAUSE_SECONDS)
