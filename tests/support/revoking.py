"""Revoking in a running system, and how long it takes until each part of it knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from carrel import Client
from carrel.api.context.v1 import context_service_pb2 as context_pb
from carrel.api.context.v1 import context_service_pb2_grpc as context_rpc
from carrel.api.context.v1 import revocation_service_pb2 as pb
from carrel.api.context.v1 import revocation_service_pb2_grpc as rpc
from carrel.api.events.v1 import event_service_pb2, event_service_pb2_grpc
from carrel.api.events.v1.event_pb2 import Cursor
from carrel.api.runs.v1 import run_service_pb2, run_service_pb2_grpc
from carrel.api.tools.v1 import tool_service_pb2, tool_service_pb2_grpc
from carrel_chassis.errors import CarrelError
from carrel_chassis.rpc.status import from_rpc_error
from tests.support.system import SERVICES, Person, System

USER, SESSION = pb.REVOCATION_KIND_USER, pb.REVOCATION_KIND_SESSION
RUN, SCOPE = pb.REVOCATION_KIND_RUN, pb.REVOCATION_KIND_SCOPE


def revocations(system: System) -> tuple[rpc.RevocationServiceAsyncStub, Any]:
    """The service and the operator's metadata."""
    peer = system.peer("context")
    return rpc.RevocationServiceStub(peer.channel), peer.metadata()


async def revoke(
    system: System, person: Person, kind: pb.RevocationKind.ValueType = USER, value: str = ""
) -> pb.Revocation:
    """Revokes, as the operator."""
    stub, metadata = revocations(system)
    request = pb.RevokeRequest(
        tenant_id=person.tenant_id, user_id=person.user_id, kind=kind, value=value, reason="a test"
    )
    return (await stub.Revoke(request, metadata=metadata, timeout=10)).revocation


async def restore(
    system: System, person: Person, kind: pb.RevocationKind.ValueType = USER, value: str = ""
) -> pb.Revocation:
    """Lifts it again."""
    stub, metadata = revocations(system)
    request = pb.RestoreRequest(tenant_id=person.tenant_id, user_id=person.user_id, kind=kind, value=value)
    return (await stub.Restore(request, metadata=metadata, timeout=10)).revocation


Probe = Callable[[], Awaitable[Any]]


def probes(system: System, person: Person) -> dict[str, Probe]:
    """A call to each service that succeeds for the person until it is refused."""

    def of(service: str, make: Callable[[grpc.aio.Channel], Any], request: Any, metadata: Any) -> Probe:
        channel = system.peer(service).channel if service in SERVICES else system.edge
        method = make(channel)
        return lambda: method(request, metadata=metadata, timeout=5)

    return {
        "context": of(
            "context",
            lambda c: context_rpc.ContextServiceStub(c).ExchangeContext,
            context_pb.ExchangeContextRequest(),
            person.metadata,
        ),
        "agent-execution": of(
            "agent-execution",
            lambda c: run_service_pb2_grpc.RunServiceStub(c).ListRuns,
            run_service_pb2.ListRunsRequest(),
            person.metadata,
        ),
        "tool-dispatch": of(
            "tool-dispatch",
            lambda c: tool_service_pb2_grpc.ToolServiceStub(c).ListTools,
            tool_service_pb2.ListToolsRequest(),
            person.metadata,
        ),
        "event-stream": of(
            "event-stream",
            lambda c: event_service_pb2_grpc.EventServiceStub(c).ListEvents,
            event_service_pb2.ListEventsRequest(),
            person.metadata,
        ),
        "gateway": of(
            "gateway",
            lambda c: c.unary_unary("/carrel.api.gateway.v1.GatewayService/ListAgents"),
            b"",
            person.authorization,
        ),
    }


async def refusal_of(probe: Probe, seconds: float = 10.0) -> tuple[float, CarrelError]:
    """Calls until it is refused: when that was, by the monotonic clock, and how."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await probe()
        except grpc.aio.AioRpcError as error:
            return time.monotonic(), from_rpc_error(error)
        if time.monotonic() > deadline:
            raise AssertionError(f"not refused within {seconds} s")
        await asyncio.sleep(0.005)


async def end_of_stream(system: System, person: Person, opened: asyncio.Event) -> tuple[float, CarrelError, Cursor]:
    """Subscribes at event-stream and reads to the end: when that was, why, and the last position that came in a message."""
    stub = event_service_pb2_grpc.EventServiceStub(system.peer("event-stream").channel)
    stream = stub.Subscribe(event_service_pb2.SubscribeRequest(), metadata=person.metadata, timeout=60)
    position = Cursor()
    try:
        async for message in stream:
            position = message.position
            opened.set()
    except grpc.aio.AioRpcError as error:
        return time.monotonic(), from_rpc_error(error), position
    finally:
        stream.cancel()
    raise AssertionError("the stream ended without a reason")


async def started(client: Client, agent: str, input: dict[str, Any], state: int) -> str:
    """A run that has come as far as this state."""
    run = await client.start_run(agent, input)
    while run.state != state:
        await asyncio.sleep(0.02)
        run = await client.get_run(run.run_id)
    return run.run_id
