"""Asking the services of a running system how they are, by the standard gRPC health check."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carrel_chassis.probe import open_channel
from carrel_chassis.stack import SERVICES

_CALL_SECONDS = 3.0


async def healths(addresses: Mapping[str, str]) -> dict[str, str]:
    """For each service that has an address: `SERVING`, `NOT_SERVING`, or the status code of the call that failed."""
    names = [service.name for service in SERVICES if service.name in addresses]
    found = await asyncio.gather(*(_health(name, addresses[name]) for name in names))
    return dict(zip(names, found, strict=True))


async def _health(name: str, address: str) -> str:
    """With TLS between the services, when this command is told of the same certificates as they are."""
    environment = {**os.environ, **({"CARREL_HTTP_LISTEN": address} if name == "gateway" else {})}
    async with open_channel(address, environment) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
