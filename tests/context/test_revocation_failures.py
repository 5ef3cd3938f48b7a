"""Revocation while something is broken: NATS away, a service restarted, the context service silent."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator

import grpc
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carrel_chassis.stack import Stack
from tests.support.expect import eventually
from tests.support.revoking import Probe, probes, refusal_of, revoke
from tests.support.system import System, test_settings

WITHIN_SECONDS = 2.0
SERVICES = ("agent-execution", "tool-dispatch", "event-stream")


@pytest_asyncio.fixture(scope="module")
async def breakable(tmp_path_factory) -> AsyncIterator[System]:
    """A system of its own, which says after a second that it may not know all."""
    settings = test_settings(
        tmp_path_factory.mktemp("breakable") / "data", service_environment={"CARREL_REVOCATION_STALE_SECONDS": "1"}
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


async def says(system: System, service: str) -> str:
    channel = system.edge if service == "gateway" else system.peer(service).channel
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service="revocations"), timeout=5)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_without_nats_it_still_takes_less_than_two_seconds(breakable: System) -> None:
    ada = await breakable.person()
    calls = probes(breakable, ada)
    for probe in calls.values():
        await probe()
    breakable.stack.kill("nats", signal.SIGSTOP)
    try:
        begin = time.monotonic()
        await revoke(breakable, ada)
        for service, probe in calls.items():
            moment, error = await refusal_of(probe)
            assert error.reason == "CONTEXT_REVOKED", service
            assert moment - begin < WITHIN_SECONDS, service
    finally:
        breakable.stack.kill("nats", signal.SIGCONT)


async def test_a_service_that_was_away_knows_before_it_accepts_anything(breakable: System) -> None:
    ada = await breakable.person()
    calls = probes(breakable, ada)
    for name, service in (("execution", "agent-execution"), ("tools", "tool-dispatch"), ("events", "event-stream")):
        await calls[service]()
        breakable.stack.kill(name, signal.SIGKILL)
    await revoke(breakable, ada)

    async def refused_or_away(probe: Probe) -> bool:
        """Never accepted: away for a while, then refused."""
        try:
            await probe()
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        raise AssertionError("a revoked context was accepted")

    for service in SERVICES:
        await eventually(lambda probe=calls[service]: refused_or_away(probe), seconds=20)  # type: ignore[misc]
    await breakable.stack.ready(30)


async def test_while_the_context_service_is_silent_all_keep_refusing_and_say_that_they_are_stale(
    breakable: System,
) -> None:
    ada, eve = await breakable.person(), await breakable.person()
    calls, others = probes(breakable, ada), probes(breakable, eve)
    await revoke(breakable, ada)
    for service in SERVICES:
        await refusal_of(calls[service])
        await others[service]()
        assert await says(breakable, service) == "SERVING"
    breakable.stack.kill("context", signal.SIGSTOP)
    try:
        for service in SERVICES:

            async def stale(service: str = service) -> bool:
                return await says(breakable, service) == "NOT_SERVING"

            await eventually(stale, seconds=8)
            assert (await refusal_of(calls[service]))[1].reason == "CONTEXT_REVOKED"
            await others[service]()  # it does not fail closed unless it is told to
        assert await says(breakable, "gateway") == "NOT_SERVING"
    finally:
        breakable.stack.kill("context", signal.SIGCONT)
    for service in (*SERVICES, "gateway"):

        async def fresh(service: str = service) -> bool:
            return await says(breakable, service) == "SERVING"

        await eventually(fresh, seconds=8)
