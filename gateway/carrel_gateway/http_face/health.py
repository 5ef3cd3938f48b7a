"""Whether the gateway lives, and whether the services behind it serve. It needs no credential and tells nothing of any user."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import Response

from carrel_chassis.rpc.channel import Peer
from carrel_gateway.backends import Backends
from carrel_gateway.http_face.json_form import ApiResponse

_CHECK_SECONDS = 1.0
_KEEP_SECONDS = 1.0
"""Anybody may ask: however often they do, each service is asked once a second."""


class Health:
    """Answers /healthz and /readyz."""

    def __init__(self, backends: Backends, peers: Iterable[Peer]) -> None:
        self._backends = backends
        self._peers = list(peers)
        self._stubs = [health_pb2_grpc.HealthStub(peer.channel) for peer in self._peers]
        self._states: dict[str, str] = {}
        self._checked = float("-inf")
        self._lock = asyncio.Lock()

    async def alive(self, request: Request) -> Response:
        """GET /healthz: the process answers."""
        return ApiResponse({"state": "alive"})

    async def ready(self, request: Request) -> Response:
        """GET /readyz: 200 when every service serves and this gateway does not drain, else 503 with who does not."""
        states = await self._current()
        ready = not self._backends.ending and all(state == "SERVING" for state in states.values())
        state = "draining" if self._backends.ending else "ready" if ready else "not ready"
        return ApiResponse({"state": state, "services": states}, 200 if ready else 503)

    async def _current(self) -> dict[str, str]:
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if clock() - self._checked >= _KEEP_SECONDS:
                found = await asyncio.gather(*map(_state, self._stubs))
                self._states = dict(zip((peer.name for peer in self._peers), found, strict=True))
                self._checked = clock()
        return self._states


async def _state(stub: health_pb2_grpc.HealthStub) -> str:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CHECK_SECONDS)
    except grpc.aio.AioRpcError:
        return "UNREACHABLE"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
