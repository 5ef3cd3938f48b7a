"""The chain around every call, over real gRPC on a real port: unary and streaming alike."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carrel.api.errors.v1 import error_reason_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.rpc.call import caller, current_call
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.settings import ServiceSettings
from carrel_chassis.signing import ContextSigner
from carrel_chassis.trust import Trust
from tests.libs.chassis.test_signing import context
from tests.support.expect import eventually, refused
from tests.support.system import ROOT

CONTEXT_KEY = Ed25519PrivateKey.generate()


class Keys:
    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        return CONTEXT_KEY.public_key() if key_id == "key-1" else None


class Echo(rpc.EventServiceServicer):
    """A service whose methods do what a test has set."""

    def __init__(self) -> None:
        self.calls = 0
        self.do: Any = None
        self.ended = asyncio.Event()

    async def AppendEvents(self, request: pb.AppendEventsRequest, context: Any) -> pb.AppendEventsResponse:
        self.calls += 1
        return pb.AppendEventsResponse()

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> pb.ListEventsResponse:
        self.calls += 1
        if self.do:
            await self.do()
        return pb.ListEventsResponse(more=caller().user_id == "ada")

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> AsyncIterator[pb.SubscribeResponse]:
        self.calls += 1
        try:
            yield pb.SubscribeResponse()
            if self.do:
                await self.do()
            await current_call().stopping.wait()
            raise CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "Draining.")
        finally:
            self.ended.set()


class Running:
    def __init__(
        self, server: RpcServer, servicer: Echo, stub: rpc.EventServiceAsyncStub, channel: grpc.aio.Channel
    ) -> None:
        self.server, self.servicer, self.stub, self.channel = server, servicer, stub, channel


def make_settings(folder: Path, **changes: Any) -> ServiceSettings:
    key = Ed25519PrivateKey.generate()
    (folder / "service.key").write_text(base64.b64encode(key.private_bytes_raw()).decode())
    trusted = {"agent-execution": base64.b64encode(key.public_key().public_bytes_raw()).decode()}
    (folder / "trust.json").write_text(json.dumps(trusted))
    values = {
        "listen": "127.0.0.1:0",
        "service_key_file": folder / "service.key",
        "service_trust_file": folder / "trust.json",
    }
    return ServiceSettings(**{"drain_seconds": 0.2, **values, **changes})


@asynccontextmanager
async def running(folder: Path, **changes: Any) -> AsyncIterator[Running]:
    settings = make_settings(folder, **changes)
    servicer = Echo()
    server = RpcServer(settings, Trust(settings, "event-stream").authenticator(Keys()))
    server.register(rpc.add_EventServiceServicer_to_server, servicer)
    await server.start()
    channel = open_channel(f"127.0.0.1:{server.port}")
    try:
        yield Running(server, servicer, rpc.EventServiceStub(channel), channel)
    finally:
        await channel.close()
        await server.stop()


def as_user(user: UserContext | None = None) -> tuple[tuple[str, bytes], ...]:
    now = time.time()
    user = user or context(issue_time=now, expire_time=now + 60, scopes=frozenset({"events.read"}))
    raw = ContextSigner("key-1", CONTEXT_KEY).sign(user).SerializeToString(deterministic=True)
    return (("user-context-bin", raw),)


async def test_a_call_with_a_good_context_reaches_its_handler(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        answer = await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user())
        assert answer.more
        stream = it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user())
        assert await anext(aiter(stream)) == pb.SubscribeResponse()
        stream.cancel()
        await asyncio.wait_for(it.servicer.ended.wait(), 5)


async def test_no_handler_runs_without_identity(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_MISSING"):
            await it.stub.ListEvents(pb.ListEventsRequest())
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_MISSING"):
            await anext(aiter(it.stub.Subscribe(pb.SubscribeRequest())))
        with refused(grpc.StatusCode.UNAUTHENTICATED, "SERVICE_IDENTITY_INVALID"):
            await it.stub.AppendEvents(pb.AppendEventsRequest(), metadata=as_user())
        assert it.servicer.calls == 0


async def test_a_missing_scope_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        now = time.time()
        poor = as_user(context(issue_time=now, expire_time=now + 60))
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING") as refusal:
            await it.stub.ListEvents(pb.ListEventsRequest(), metadata=poor)
        assert refusal.error.metadata == {"scope": "events.read"}


async def test_a_malformed_request_is_refused_after_its_caller_is_known(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        raw_call = it.channel.unary_unary("/carrel.api.events.v1.EventService/ListEvents")
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_MISSING"):
            await raw_call(b"\xff\xff\xff")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"):
            await raw_call(b"\xff\xff\xff", metadata=as_user())


async def test_a_fault_leaves_as_an_id_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as it:

        async def fail() -> None:
            raise KeyError("the password is hunter2")

        it.servicer.do = fail
        with refused(grpc.StatusCode.INTERNAL, "INTERNAL") as refusal:
            await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user())
        assert "hunter2" not in refusal.error.message
        assert refusal.error.metadata["error_id"] in refusal.error.message
        stream = aiter(it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user()))
        await anext(stream)
        with refused(grpc.StatusCode.INTERNAL, "INTERNAL"):
            await anext(stream)


async def test_an_error_carries_its_details(tmp_path: Path) -> None:
    async with running(tmp_path) as it:

        async def fail() -> None:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                "Too many.",
                metadata={"limit": "runs"},
                fields={"a": "b"},
                retry_seconds=2.5,
            )

        it.servicer.do = fail
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
            await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user())
        error = refusal.error
        assert (error.metadata, error.fields, error.retry_seconds) == ({"limit": "runs"}, {"a": "b"}, 2.5)


async def test_a_call_without_a_deadline_gets_one(tmp_path: Path) -> None:
    async with running(tmp_path, default_deadline_seconds=0.05, stream_max_age_seconds=0.05) as it:
        it.servicer.do = asyncio.Event().wait
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
            await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user())
        stream = aiter(it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user(), timeout=100_000))
        await anext(stream)
        with refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"):
            await anext(stream)


async def test_a_handler_learns_that_its_client_has_left(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        cancelled = asyncio.Event()

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        it.servicer.do = wait
        call = it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user())
        await eventually(lambda: asyncio.sleep(0, it.servicer.calls))
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_draining_ends_streams_at_once_and_says_so_by_health(tmp_path: Path) -> None:
    async with running(tmp_path, drain_seconds=5.0) as it:
        health = health_pb2_grpc.HealthStub(it.channel)
        request = health_pb2.HealthCheckRequest(service="carrel.api.events.v1.EventService")
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        stream = aiter(it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user()))
        await anext(stream)
        begin = time.monotonic()
        stopping = asyncio.create_task(it.server.stop())
        with refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"):
            await anext(stream)
        await stopping
        assert time.monotonic() - begin < 3, "the drain waited its whole grace for a stream that had ended"


async def test_a_taken_port_is_one_clear_sentence(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        address = f"127.0.0.1:{it.server.port}"
        settings = make_settings(tmp_path, listen=address)
        second = RpcServer(settings, Trust(settings, "event-stream").authenticator(Keys()))
        with pytest.raises(OSError, match=f"{address} is in use"):
            await second.start()


def test_every_reason_that_is_raised_stands_in_the_api() -> None:
    """Reads the sources: a reason that clients cannot find in the enum is no reason."""
    known = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    sources = [path for top in ("libs/carrel_chassis", "services", "gateway") for path in (ROOT / top).rglob("*.py")]
    raised = {
        (reason, path.name)
        for path in sources
        for reason in re.findall(r"Kind\.[A-Z_]+,\s*\"([A-Z_]+)\"", path.read_text())
    }
    assert len(raised) > 20
    assert {reason for reason, _ in raised} <= known, raised


def test_a_child_of_a_context_keeps_its_owner() -> None:
    user = context()
    assert replace(user, depth=1).owner == ("acme", "ada")
