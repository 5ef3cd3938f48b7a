"""A replica that has lost NATS or PostgreSQL says so by health, and serves on as far as it can."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2, health_pb2_grpc

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.stack.ports import free_ports
from carrel_events.health import report
from carrel_events.work import in_background
from tests.events.desk import replica
from tests.support.expect import eventually
from tests.support.system import System

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_without_nats_the_bus_is_not_serving_and_the_rest_is(system: System) -> None:
    nowhere = f"nats://nobody:nothing@127.0.0.1:{free_ports(1)[0]}"
    async with replica(system) as whole, replica(system, nats_url=nowhere) as mute:
        for channel, bus in ((whole, SERVING), (mute, NOT_SERVING)):
            stub = health_pb2_grpc.HealthStub(channel)

            async def state(name: str, stub: health_pb2_grpc.HealthStub = stub) -> int:
                return (await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status

            async def told(state=state) -> bool:
                return [await state(name) for name in ("", "database")] == [SERVING] * 2

            assert await eventually(told)
            assert await state("bus") == bus


async def test_a_database_that_does_not_answer_is_reported_and_one_that_is_back_too() -> None:
    said: list[tuple[str, bool]] = []
    answers = [CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "gone"), None]
    done = asyncio.Event()

    async def ask() -> None:
        answer = answers.pop(0) if answers else None
        if answer is not None:
            raise answer

    async def say(name: str, serving: bool) -> None:
        said.append((name, serving))
        if len(said) == 4:
            done.set()

    async with asyncio.timeout(10), in_background(report(lambda: True, ask, say)):
        await done.wait()
    assert said[:4] == [("bus", True), ("database", False), ("bus", True), ("database", True)]
