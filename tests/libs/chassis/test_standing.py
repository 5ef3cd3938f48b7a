"""Standing, over real gRPC: what is under way for a user ends when the user is revoked; what only others lose goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.revocations import Changes, Revocation, Revocations, What
from carrel_chassis.rpc.call import current_call
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.rpc.server import RpcServer
from carrel_chassis.trust import Trust
from tests.libs.chassis.test_layers import Echo, Keys, Running, as_user, make_settings
from tests.support.expect import eventually, refused

ADA = Revocation("acme", "ada", What.USER, "", 1, True, time.time())


@asynccontextmanager
async def running(folder: Path, **changes: Any) -> AsyncIterator[tuple[Running, Revocations]]:
    async def nothing(after: int) -> Changes:
        return Changes([], after)

    settings = make_settings(folder, **changes)
    revocations = Revocations(nothing, time.time, stale_seconds=0.1, fail_closed=settings.revocation_fail_closed)
    server = RpcServer(settings, Trust(settings, "event-stream").authenticator(Keys(), revocations), revocations)
    servicer = Echo()
    server.register(rpc.add_EventServiceServicer_to_server, servicer)
    await server.start()
    channel = open_channel(f"127.0.0.1:{server.port}")
    try:
        yield Running(server, servicer, rpc.EventServiceStub(channel), channel), revocations
    finally:
        await channel.close()
        await server.stop()


async def test_a_unary_call_under_way_ends(tmp_path: Path) -> None:
    async with running(tmp_path) as (it, revocations):
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        it.servicer.do = wait
        call = asyncio.ensure_future(it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user(), timeout=20))
        await begun.wait()
        revocations.apply(ADA)
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED"):
            await call
        assert cancelled.is_set()


async def test_a_stream_ends_with_how_far_it_has_come(tmp_path: Path) -> None:
    async with running(tmp_path) as (it, revocations):

        async def note() -> None:
            current_call().progress["offset"] = "7"

        it.servicer.do = note
        stream = it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user(), timeout=20)
        messages = aiter(stream)
        await anext(messages)
        await asyncio.sleep(0.05)  # the handler goes on from the message to where it waits
        revocations.apply(ADA)
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED") as refusal:
            await anext(messages)
        assert refusal.error.metadata["offset"] == "7"
        await asyncio.wait_for(it.servicer.ended.wait(), 5)


async def test_a_stream_at_its_greatest_age_says_how_far_it_has_come(tmp_path: Path) -> None:
    async with running(tmp_path, stream_max_age_seconds=0.2) as (it, _):

        async def note() -> None:
            current_call().progress["offset"] = "7"

        it.servicer.do = note
        stream = it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user(), timeout=20)
        with refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE") as refusal:
            async for _ in stream:
                pass
        assert refusal.error.metadata["offset"] == "7"


@pytest.mark.parametrize(
    "other",
    [
        replace(ADA, user_id="eve"),
        replace(ADA, what=What.SESSION, value="another-session"),
        replace(ADA, what=What.RUN, value="another-run"),
        replace(ADA, what=What.SCOPE, value="runs.start"),
        replace(ADA, revoked=False),
    ],
    ids=["another user", "another session", "another run", "a scope that is not needed", "rights that changed"],
)
async def test_what_is_not_meant_goes_on(tmp_path: Path, other: Revocation) -> None:
    async with running(tmp_path) as (it, revocations):
        stream = it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user(), timeout=20)
        await anext(aiter(stream))
        revocations.apply(other)
        await asyncio.sleep(0.1)
        assert not it.servicer.ended.is_set()
        stream.cancel()


async def test_a_scope_that_the_method_needs_ends_it(tmp_path: Path) -> None:
    async with running(tmp_path) as (it, revocations):
        stream = it.stub.Subscribe(pb.SubscribeRequest(), metadata=as_user(), timeout=20)
        messages = aiter(stream)
        await anext(messages)
        revocations.apply(replace(ADA, what=What.SCOPE, value="events.read"))
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED"):
            await anext(messages)
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
            await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user(), timeout=5)


@pytest.mark.parametrize("fail_closed", [False, True])
async def test_staleness_is_said_by_health_and_refuses_if_it_is_told_to(tmp_path: Path, fail_closed: bool) -> None:
    async with running(tmp_path, revocation_fail_closed=fail_closed) as (it, revocations):
        health = health_pb2_grpc.HealthStub(it.channel)

        async def says(service: str) -> int:
            return (await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status

        await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user(), timeout=5)
        assert await says("revocations") == health_pb2.HealthCheckResponse.SERVING

        async def away(after: int) -> Changes:
            raise CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "Away.")

        revocations._fetch = away
        follow = asyncio.create_task(revocations.keep_fresh(0.02))

        async def stale() -> bool:
            return await says("revocations") == health_pb2.HealthCheckResponse.NOT_SERVING

        await eventually(stale, seconds=5)
        if fail_closed:
            with refused(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"):
                await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user(), timeout=5)
        else:
            await it.stub.ListEvents(pb.ListEventsRequest(), metadata=as_user(), timeout=5)
        overall = health_pb2.HealthCheckResponse.NOT_SERVING if fail_closed else health_pb2.HealthCheckResponse.SERVING

        async def process_says() -> bool:
            return await says("") == overall

        await eventually(process_says, seconds=5)
        follow.cancel()
