"""The whole system with TLS between its services: it does its work, and nobody without a certificate is heard by any of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carrel import Client
from carrel.client import RunState
from carrel_chassis.probe import state_of
from carrel_chassis.stack import Stack
from carrel_chassis.stack.development import development_token
from tests.cli.program import carrel
from tests.support.system import SERVICES, test_settings


@pytest_asyncio.fixture
async def encrypted(tmp_path: Path) -> AsyncIterator[Stack]:
    """A system of its own, each service with the certificate that the launcher made for it."""
    async with Stack(test_settings(tmp_path / "data", peer_tls=True)) as stack:
        await stack.ready(60)
        yield stack


async def test_a_run_goes_through_all_services_and_the_operator_is_heard(encrypted: Stack) -> None:
    token = development_token(encrypted.settings.data_dir, "acme", "ada")
    async with Client(encrypted.addresses["gateway"], token) as client:
        run = await client.start_run("echo", {"text": "encrypted"})
        ended = await client.wait_for_run(run.run_id)
        assert ended.state == RunState.RUN_STATE_SUCCEEDED and "encrypted" in ended.result_json
    for name in SERVICES.values():
        address = encrypted.addresses[name]
        assert await state_of(address, 5.0, encrypted.service_environment(name)) == "SERVING"
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    await check_the_operator(encrypted.settings.data_dir)


async def check_the_operator(data_dir: Path) -> None:
    """The commands that speak with the services themselves find their certificate in the data folder."""
    for command in (
        ("users", "list", "--tenant", "acme"),
        ("token", "--tenant", "acme", "--user", "ada", "--context"),
        ("doctor",),
    ):
        answer = await carrel(*command, data_dir=data_dir)
        assert answer.code == 0, answer.err
