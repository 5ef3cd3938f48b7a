"""Waiting until a service says that it serves, by the standard gRPC health check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_CALL_SECONDS = 1.0
_PAUSE_SECONDS = 0.05
_OPTIONS = [
    # The default back-off starts at a second, which is most of a start.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


async def until_serving(address: str, check: Callable[[], None]) -> None:
    """Returns when the server at the address answers SERVING for itself (service name ""); `check` may raise meanwhile."""
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while not await _serves(stub):
            check()
            await asyncio.sleep(_PAUSE_SECONDS)


async def _serves(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
