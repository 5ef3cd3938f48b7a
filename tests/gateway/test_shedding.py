"""A gateway with as many calls under way as it may have takes no more. Counted, not timed: a lock of the database holds what is under way.

How much sooner those that are taken get their answers is measured: `make bench ONLY=shedding`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import grpc
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrel import Client
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.rpc.status import from_rpc_error
from carrel_chassis.stack.ports import free_ports
from tests.gateway.edge import bearer, call, http_client
from tests.gateway.processes import gateway_process
from tests.gateway.test_admission import Clock, admission, admitted, user
from tests.support.expect import eventually
from tests.support.system import Person, System

BOUND = 4
"""Fewer than the context service has connections to its database: so each call that is taken arrives there."""
CROWD = 40


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=100))
def test_never_more_than_the_bound_are_under_way_and_none_is_refused_below_it(bound: int, begins: list[bool]) -> None:
    gate = admission(Clock(), calls_under_way=bound, user_calls_per_second=1e6)
    under_way: list[AbstractContextManager[None]] = []
    for begin in begins:
        block = gate.call("GetRun", user())
        if begin and len(under_way) < bound:
            block.__enter__()
            under_way.append(block)
        elif begin:
            with pytest.raises(CarrelError) as refusal:
                block.__enter__()
            assert refusal.value.metadata == {"limit": "calls_under_way", "value": str(bound)}
        elif under_way:
            under_way.pop().__exit__(None, None, None)


def test_what_is_shed_costs_its_user_nothing_of_the_rate() -> None:
    gate = admission(Clock(), calls_under_way=1)
    with gate.call("GetRun", user()):
        assert not any(admitted(gate) for _ in range(100))
    assert [admitted(gate) for _ in range(10)] == [True] * 9 + [False]


@dataclass
class HeldThreads:
    """Threads that nobody can rename until they are let go."""

    thread_ids: Sequence[str]
    _database: asyncpg.Connection
    _lock: asyncpg.transaction.Transaction

    async def waiting(self) -> int:
        """How many calls have come as far as the database, and wait there."""
        query = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        return int(await self._database.fetchval(query))

    async def let_go(self) -> None:
        await self._lock.rollback()


@asynccontextmanager
async def held_threads(system: System, owner: Client, count: int) -> AsyncIterator[HeldThreads]:
    thread_ids = [(await owner.create_thread("old")).thread_id for _ in range(count)]
    database = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:
        lock = database.transaction()
        await lock.start()
        await database.execute("SELECT FROM context.thread WHERE thread_id = ANY($1) FOR UPDATE", thread_ids)
        yield HeldThreads(thread_ids, database, lock)
    finally:
        await database.close()


async def rename(channel: grpc.aio.Channel, person: Person, thread_id: str) -> None:
    request = pb.RenameThreadRequest(thread_id=thread_id, title="new")
    await call(channel, "RenameThread", bearer(person.token), request.SerializeToString())


def assert_shed(error: CarrelError) -> None:
    assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "UNAVAILABLE")
    assert error.metadata == {"limit": "calls_under_way", "value": str(BOUND)}
    assert error.retry_seconds


async def test_of_a_crowd_the_bound_is_taken_and_the_rest_is_refused_before_it_and_has_no_effect(
    system: System, ada: Person
) -> None:
    async with (
        Client(system.addresses["gateway"], ada.token) as owner,
        held_threads(system, owner, CROWD) as held,
        gateway_process(system, calls_under_way=str(BOUND)) as gateway,
        open_channel(gateway.address) as channel,
    ):
        ends: list[str] = []

        async def called(thread_id: str) -> bool:
            try:
                await rename(channel, ada, thread_id)
            except grpc.aio.AioRpcError as error:
                assert_shed(from_rpc_error(error))
                ends.append("shed")
                return False
            ends.append("answered")
            return True

        calls = [asyncio.create_task(called(thread_id)) for thread_id in held.thread_ids]

        async def all_decided() -> bool:
            return len(ends) == CROWD - BOUND and await held.waiting() == BOUND

        await eventually(all_decided)
        await held.let_go()
        answered = await asyncio.gather(*calls)
        assert ends == ["shed"] * (CROWD - BOUND) + ["answered"] * BOUND
        renamed = {thread.thread_id async for thread in owner.list_threads() if thread.title == "new"}
        assert renamed == {one for one, was_answered in zip(held.thread_ids, answered, strict=True) if was_answered}


@dataclass
class FullGateway:
    """A gateway with as many calls under way as it may have."""

    address: str
    http_address: str
    metrics_address: str
    held: HeldThreads
    under_way: Sequence[asyncio.Task[None]]

    async def refusals(self, method: str) -> float:
        """How many calls of a method it has refused as UNAVAILABLE, by its own count."""
        async with httpx.AsyncClient() as client:
            page = (await client.get(f"http://{self.metrics_address}/metrics")).text
        name = "rpc_server_call_duration_seconds_count"
        counts = (line for line in page.splitlines() if line.startswith(name) and f"/{method}" in line)
        return sum(float(line.rsplit(" ", 1)[1]) for line in counts if '"UNAVAILABLE"' in line)


@asynccontextmanager
async def full_gateway(system: System, person: Person) -> AsyncIterator[FullGateway]:
    [port] = free_ports(1)
    metrics = f"127.0.0.1:{port}"
    async with (
        Client(system.addresses["gateway"], person.token) as owner,
        held_threads(system, owner, BOUND) as held,
        gateway_process(system, calls_under_way=str(BOUND), metrics_listen=metrics) as gateway,
        open_channel(gateway.address) as channel,
    ):
        under_way = [asyncio.create_task(rename(channel, person, thread_id)) for thread_id in held.thread_ids]

        async def full() -> bool:
            return await held.waiting() == BOUND

        await eventually(full)
        yield FullGateway(gateway.address, gateway.http_address, metrics, held, under_way)


async def test_a_full_gateway_says_so_at_both_faces_to_everybody_and_the_client_comes_back_by_itself(
    system: System, ada: Person, eve: Person
) -> None:
    async with full_gateway(system, ada) as gateway, open_channel(gateway.address) as channel:
        for person in (ada, eve):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call(channel, "ListRuns", bearer(person.token))
            assert_shed(from_rpc_error(refusal.value))
            async with http_client(system, person.token, gateway.http_address) as http:
                answer = await http.get("/v1/runs")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json()["metadata"] == {"limit": "calls_under_way", "value": str(BOUND)}
        async with Client(gateway.address, eve.token) as client:
            patient = [asyncio.create_task(client.list_agents()) for _ in range(2 * BOUND)]

            async def all_refused() -> bool:
                return await gateway.refusals("ListAgents") >= len(patient)

            await eventually(all_refused)
            assert not any(one.done() for one in patient)
            await gateway.held.let_go()
            await asyncio.gather(*gateway.under_way)
            assert all(await asyncio.gather(*patient))


async def test_a_call_that_is_left_frees_its_place(system: System, ada: Person) -> None:
    async with full_gateway(system, ada) as gateway, open_channel(gateway.address) as channel:
        gateway.under_way[0].cancel()

        async def taken() -> bool:
            try:
                await call(channel, "ListRuns", bearer(ada.token))
            except grpc.aio.AioRpcError as error:
                assert_shed(from_rpc_error(error))
                return False
            return True

        await eventually(taken)
        await gateway.held.let_go()
        await asyncio.gather(*gateway.under_way[1:])
