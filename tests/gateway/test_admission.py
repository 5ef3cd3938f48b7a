"""Limits: each one at both faces, alone and over two replicas."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from carrel import Client
from carrel.errors import LimitExceeded
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.rpc.channel import open_channel
from carrel_gateway.admission import Admission, Limits
from carrel_gateway.settings import GatewaySettings
from tests.gateway.edge import bearer, call, http_client, replica
from tests.gateway.processes import gateway_process
from tests.support.expect import eventually, refused
from tests.support.system import Person, System


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def user(name: str = "ada", tenant: str = "acme") -> UserContext:
    return UserContext(
        context_id="ctx-1",
        tenant_id=tenant,
        user_id=name,
        session_id="session-1",
        scopes=frozenset(),
        audiences=frozenset(),
        issue_time=0,
        expire_time=300,
        request_id="request-1",
    )


def admission(clock: Clock, **changes: Any) -> Admission:
    limits = {"user_calls_per_second": 10.0, "tenant_calls_per_second": 1000.0, "burst_seconds": 1.0, **changes}
    return Admission(Limits(**limits), clock)


def admitted(gate: Admission, method: str = "GetRun", who: UserContext | None = None) -> bool:
    try:
        with gate.call(method, who or user()):
            return True
    except CarrelError:
        return False


def test_a_full_bucket_then_the_rate() -> None:
    clock = Clock()
    gate = admission(clock)
    assert [admitted(gate) for _ in range(11)] == [True] * 10 + [False]
    clock.now += 0.1
    assert [admitted(gate) for _ in range(2)] == [True, False]
    assert admitted(gate, who=user("eve"))


def test_a_refusal_names_the_limit_its_value_and_the_wait() -> None:
    clock = Clock()
    gate = admission(clock, user_calls_per_second=2.0)
    assert [admitted(gate) for _ in range(2)] == [True, True]
    with pytest.raises(CarrelError) as refusal, gate.call("GetRun", user()):
        pass
    assert (refusal.value.kind, refusal.value.reason) == (Kind.OVER_LIMIT, "LIMIT_EXCEEDED")
    assert refusal.value.metadata == {"limit": "user_calls_per_second", "value": "2"}
    assert refusal.value.retry_seconds == pytest.approx(0.5)
    clock.now += 0.5
    assert admitted(gate)


def test_what_one_limit_refuses_costs_nothing_of_the_others() -> None:
    gate = admission(Clock(), method_calls_per_second={"StartRun": 1.0})
    assert [admitted(gate, "StartRun") for _ in range(20)] == [True] + [False] * 19
    assert [admitted(gate) for _ in range(10)] == [True] * 9 + [False]


def test_the_users_of_a_tenant_share_its_limit() -> None:
    gate = admission(Clock(), tenant_calls_per_second=5.0)
    assert sum(admitted(gate, who=user(f"user-{number}")) for number in range(10)) == 5
    assert admitted(gate, who=user("eve", "another"))


@given(st.lists(st.floats(0, 0.5), max_size=200), st.integers(1, 4))
def test_replicas_together_never_let_more_through(pauses: list[float], replicas: int) -> None:
    clock = Clock()
    gates = [admission(clock, replicas=replicas) for _ in range(replicas)]
    let_through = 0
    for pause in pauses:
        clock.now += pause
        let_through += sum(admitted(gate) for gate in gates)
    assert let_through <= 10 + 10 * clock.now + 1e-6


def test_users_who_have_gone_are_forgotten() -> None:
    clock = Clock()
    gate = admission(clock, tenant_calls_per_second=1e9)
    for number in range(20_000):
        clock.now += 0.001
        admitted(gate, who=user(f"user-{number}"))
    assert len(gate._of_user._full) <= 2048


async def test_a_limit_is_told_alike_at_both_faces(system: System, ada: Person, eve: Person) -> None:
    told = {"user_calls_per_second": 0.2, "burst_seconds": 1.0}
    async with replica(system, **told) as gateway, AsyncExitStack() as stack:
        channel = open_channel(gateway.address)
        stack.push_async_callback(channel.close)
        http = await stack.enter_async_context(http_client(system, eve.token, gateway.http_address))
        await call(channel, "ListAgents", bearer(ada.token))
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
            await call(channel, "ListRuns", bearer(ada.token))
        assert refusal.error.metadata == {"limit": "user_calls_per_second", "value": "0.2"}
        assert 4 < (refusal.error.retry_seconds or 0) <= 5
        assert (await http.get("/v1/agents")).status_code == 200
        answer = await http.get("/v1/runs")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
        assert answer.json()["metadata"] == refusal.error.metadata


async def test_the_client_waits_as_long_as_it_is_told(system: System, ada: Person) -> None:
    async with (
        replica(system, user_calls_per_second=4.0, burst_seconds=0.25) as gateway,
        Client(gateway.address, ada.token) as client,
    ):
        begin = time.monotonic()
        for _ in range(3):
            await client.list_agents()
        assert time.monotonic() - begin > 0.45
    async with (
        replica(system, user_calls_per_second=0.01) as gateway,
        Client(gateway.address, ada.token) as client,
    ):
        await client.list_agents()
        with pytest.raises(LimitExceeded) as refusal:  # a long wait is told at once
            await asyncio.wait_for(client.list_agents(), 1)
        assert (refusal.value.retry_seconds or 0) > 50


async def test_streams_of_one_user_are_limited_and_a_closed_one_makes_room(
    system: System, ada: Person, eve: Person
) -> None:
    async with replica(system, user_streams=2) as gateway, AsyncExitStack() as stack:
        http = await stack.enter_async_context(http_client(system, ada.token, gateway.http_address))
        opened = [await stack.enter_async_context(http.stream("GET", "/v1/events")) for _ in range(2)]
        assert [response.status_code for response in opened] == [200, 200]
        third = await http.get("/v1/events")
        assert (third.status_code, third.json()["metadata"]) == (429, {"limit": "user_streams", "value": "2"})
        channel = open_channel(gateway.address)
        stack.push_async_callback(channel.close)
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
            await call(channel, "Subscribe", bearer(ada.token))
        await call(channel, "Subscribe", bearer(eve.token))
        await opened[0].aclose()

        async def open_again() -> bool:
            async with http.stream("GET", "/v1/events") as response:
                return response.status_code == 200

        await eventually(open_again)


async def test_two_replicas_hold_the_limits_together(system: System, ada: Person, eve: Person) -> None:
    """Two processes, both hammered at once: what passes is what one limit lets through, not two."""
    told = {"gateway_replicas": "2", "user_calls_per_second": "20", "burst_seconds": "1", "user_streams": "6"}
    async with gateway_process(system, **told) as one, gateway_process(system, **told) as two:
        seconds = 3.0

        async def hammer(address: str) -> int:
            passed = 0
            channel = open_channel(address)
            while time.monotonic() < end:
                try:
                    await call(channel, "ListAgents", bearer(ada.token))
                    passed += 1
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    await asyncio.sleep(0.005)
            await channel.close()
            return passed

        begin = time.monotonic()
        end = begin + seconds
        passed = sum(await asyncio.gather(hammer(one.address), hammer(two.address)))
        most = 20 * 1 + 20 * (time.monotonic() - begin)
        assert 0.8 * most < passed <= most

        async with AsyncExitStack() as stack:
            states = []
            for number in range(10):
                address = (one, two)[number % 2].http_address
                http = await stack.enter_async_context(http_client(system, eve.token, address))
                response = await stack.enter_async_context(http.stream("GET", "/v1/events"))
                states.append(response.status_code)
        assert sorted(states) == [200] * 6 + [429] * 4


async def test_an_upload_beyond_what_may_pass_is_cut_off(system: System, ada: Person) -> None:
    content = b"a\n" + b"1\n" * 400_000
    async with replica(system, upload_max_bytes=500_000) as gateway:
        async with Client(gateway.address, ada.token) as client:
            with pytest.raises(LimitExceeded) as refusal:
                await client.upload_corpus("towns", content)
            assert refusal.value.metadata == {"limit": "upload_max_bytes", "value": "500000"}
            assert not [corpus async for corpus in client.list_corpora()]
        async with http_client(system, ada.token, gateway.http_address) as http:
            answer = await http.put("/v1/corpora/towns", content=content, headers={"content-type": "text/csv"})
            assert (answer.status_code, answer.json()["reason"]) == (413, "TOO_LARGE")


async def test_a_stream_that_is_left_frees_its_place(system: System, ada: Person) -> None:
    async with replica(system, user_streams=1) as gateway, Client(gateway.address, ada.token) as client:
        run = await client.start_run("echo", {"text": "hello"})
        for _ in range(5):
            async with aclosing(client.watch_run(run.run_id)) as events:
                await anext(events)


def test_a_limit_that_leaves_a_replica_nothing_is_refused_at_the_start(system: System) -> None:
    environment = system.stack.service_environment("gateway")
    told = {name.removeprefix("CARREL_").lower(): value for name, value in environment.items()}
    with pytest.raises(ValidationError, match="GATEWAY_REPLICAS"):
        GatewaySettings(**{**told, "gateway_replicas": 8, "user_streams": 4})
