"""Issuing a context over gRPC: the gateway's question to the context service, with the user looked up in PostgreSQL each time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel_chassis.stack import Stack, StackSettings
from tests.bench.load import durations, rate
from tests.bench.report import Figure, percentile
from tests.support.system import System


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data", only=("context",))) as stack:
            await stack.ready(60)
            system = System(stack)
            peer = system.peer("context", "gateway")
            stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(peer.channel)
            user = pb.AuthenticatedUser(tenant_id="acme", user_id="ada", session_id="session-1")
            request = pb.IssueContextRequest(user=user, request_id="request-1")

            async def issue() -> object:
                return await stub.IssueContext(request, metadata=peer.metadata(), timeout=10)

            await durations(issue, count=200)
            alone = await durations(issue, count=1000)
            many = await rate(issue, at_once=16, seconds=3.0)
            await system.close()
    return [
        Figure("issue/p50", percentile(alone, 0.5) * 1e3, "ms", "< 2", conditions="one at a time, over gRPC, fsync on"),
        Figure("issue/p99", percentile(alone, 0.99) * 1e3, "ms", conditions="one at a time"),
        Figure("issue/rate", many, "contexts/s", "> 1000", conditions="16 at once, one process"),
    ]
