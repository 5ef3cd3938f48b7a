"""`python -m carrel_chassis.probe HOST:PORT`: asks a service by the standard gRPC health check whether it serves.

For the health checks of containers: it ends with 0 when the answer is SERVING, else with 1 and a sentence.
It imports little, because it runs every few seconds beside each service.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

CALL_SECONDS = 1.0
OPTIONS = [
    # The default back-off starts at a second, which is most of a start.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


async def state_of(address: str, seconds: float = CALL_SECONDS) -> str:
    """What the server says of itself as a whole (service name ""): SERVING, NOT_SERVING, or why it says nothing."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        return await ask(health_pb2_grpc.HealthStub(channel), seconds)


async def ask(stub: health_pb2_grpc.HealthStub, seconds: float = CALL_SECONDS) -> str:
    """The same over a channel that is kept."""
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str]) -> int:
    """The exit code; a sentence on standard error where it is not 0."""
    if len(arguments) != 1 or ":" not in arguments[0]:
        sys.stderr.write("Name the service to ask: python -m carrel_chassis.probe HOST:PORT\n")
        return 1
    (address,) = arguments
    state = asyncio.run(state_of(address))
    if state == "SERVING":
        return 0
    sys.stderr.write(f"{address} does not serve ({state}).\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
