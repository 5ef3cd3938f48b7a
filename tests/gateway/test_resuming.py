"""Streams of the client behind a proxy that breaks them with a fault: they go on where they were, and give up where they get no further."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest

from carrel import CarrelClientError, Client
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.client import RunState
from carrel.errors import NotFound
from carrel_chassis.rpc.channel import open_channel
from tests.events.desk import Run, thoughts
from tests.support.system import Person, System

FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
OPENINGS = 6
"""A stream that gets no further is opened once, and five times again."""


class BreakingProxy(grpc.GenericRpcHandler):
    """Hands calls on to the gateway as bytes. A stream ends with `code` after its first message with events, as long as `gives` lasts;
    after that before its first message."""

    def __init__(self, gateway: grpc.aio.Channel, code: grpc.StatusCode, gives: int) -> None:
        self._gateway = gateway
        self._code = code
        self._gives = gives
        self.openings = 0

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        method = details.method

        async def unary(request: bytes, context: Any) -> bytes:
            answer: bytes = await self._gateway.unary_unary(method)(request, metadata=_credential(context), timeout=10)
            return answer

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            self.openings += 1
            behind = self._gateway.unary_stream(method)(request, metadata=_credential(context), timeout=30)
            try:
                while self._gives and (message := await behind.read()) is not grpc.aio.EOF:
                    yield message
                    if pb.SubscribeResponse.FromString(message).events:
                        self._gives -= 1
                        break
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            finally:
                behind.cancel()
            await context.abort(self._code, "The server behind this proxy is gone.")

        if method.endswith(("/Subscribe", "/WatchRun")):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def _credential(context: Any) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in context.invocation_metadata() if key == "authorization")


@asynccontextmanager
async def behind_a_proxy(
    system: System, person: Person, code: grpc.StatusCode, gives: int
) -> AsyncIterator[tuple[BreakingProxy, Client]]:
    async with open_channel(system.addresses["gateway"]) as gateway:
        proxy = BreakingProxy(gateway, code, gives)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((proxy,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with Client(f"127.0.0.1:{port}", person.token) as client:
                yield proxy, client
        finally:
            await server.stop(None)


@pytest.mark.parametrize("code", FAULTS)
async def test_a_stream_that_gets_further_goes_on_however_often_it_breaks(
    system: System, ada: Person, code: grpc.StatusCode
) -> None:
    run = await Run.of(system, ada)
    breaks = 2 * OPENINGS
    async with behind_a_proxy(system, ada, code, breaks) as (proxy, client):
        seen = []
        await run.append(*thoughts(1))
        async with aclosing(client.subscribe()) as events:
            async for event in events:
                seen.append(event.cursor.offset)
                if len(seen) == breaks:
                    break
                await run.append(*thoughts(1))  # only now, so that it comes on another stream
    assert seen == list(range(1, breaks + 1))
    assert proxy.openings == breaks


@pytest.mark.parametrize("code", FAULTS)
async def test_a_stream_that_gets_no_further_is_opened_so_often_and_then_the_fault_is_told(
    system: System, ada: Person, code: grpc.StatusCode
) -> None:
    await (await Run.of(system, ada)).append(*thoughts(1))
    async with behind_a_proxy(system, ada, code, gives=1) as (proxy, client):
        events = client.subscribe()
        assert (await anext(events)).cursor.offset == 1
        with pytest.raises(CarrelClientError) as refusal:
            await anext(events)
        assert (refusal.value.code, proxy.openings) == (code, OPENINGS)


async def test_a_run_is_watched_to_its_end_through_the_breaks_and_by_nobody_else(
    system: System, ada: Person, eve: Person
) -> None:
    async with behind_a_proxy(system, ada, grpc.StatusCode.INTERNAL, gives=100) as (_, client):
        run = await client.start_run("echo", {"text": "hello"})
        events = [event async for event in client.watch_run(run.run_id)]
        assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
        offsets = [event.cursor.offset for event in events]
        assert offsets == sorted(set(offsets))
        assert (await client.get_run(run.run_id)).state == RunState.RUN_STATE_SUCCEEDED
    async with behind_a_proxy(system, eve, grpc.StatusCode.INTERNAL, gives=100) as (proxy, stranger):
        with pytest.raises(NotFound):
            await anext(stranger.watch_run(run.run_id))
        assert proxy.openings == 1  # a refusal is no fault
