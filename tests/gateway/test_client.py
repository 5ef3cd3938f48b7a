"""The client: what it tries again, what it gives up, and what its errors say."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor

from carrel import CarrelClientError, Client
from carrel.client import Admin
from carrel.errors import Unavailable
from carrel_chassis.stack.ports import free_ports
from carrel_gateway.methods import SERVICES
from tests.gateway.edge import replica
from tests.support.system import Person, System


async def test_a_read_that_begins_while_the_gateway_is_away_is_answered_by_its_successor(
    system: System, ada: Person
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    async with Client(address, ada.token) as client:
        asked = asyncio.create_task(client.list_events())
        async with replica(system, address):
            assert not (await asked).events


async def test_a_gateway_that_is_nowhere_is_unavailable_soon(ada: Person) -> None:
    async with Client(f"127.0.0.1:{free_ports(1)[0]}", ada.token) as client:
        for call in (client.list_agents(), client.cancel_run("run-x"), client.start_run("echo", {})):
            with pytest.raises(Unavailable) as refusal:
                await asyncio.wait_for(call, 10)
            assert refusal.value.code == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(Unavailable):
            await asyncio.wait_for(anext(client.subscribe()), 20)


async def test_a_service_that_is_away_is_named_without_its_address(system: System, ada: Person) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    async with replica(system, tools_address=nobody) as gateway, Client(gateway.address, ada.token) as client:
        with pytest.raises(Unavailable) as refusal:
            await client.list_tools()
    assert refusal.value.reason == "UNAVAILABLE"
    assert "tool-dispatch" in refusal.value.message
    assert "127.0.0.1" not in refusal.value.message


async def test_a_call_ends_at_its_deadline(ada: Person) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with Client(address, ada.token, call_seconds=0.3) as client:
            with pytest.raises(CarrelClientError) as refusal:
                await asyncio.wait_for(client.list_agents(), 5)
    assert refusal.value.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


def test_the_package_loads_no_grpc_until_a_client_is_wanted() -> None:
    """An agent or a tool imports carrel too; it should not pay for a client."""
    check = "import sys, carrel, carrel.agent; assert 'grpc' not in sys.modules; carrel.Client; assert 'grpc' in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)
    chassis = "import sys, carrel.client; assert not [m for m in sys.modules if m.startswith('carrel_chassis')]"
    subprocess.run([sys.executable, "-c", chassis], check=True)


OTHER_NAMES = {
    "ResolveWait": "answer_wait",
    "ListTenantToolDecisions": "list_tool_decisions",
    "GetUpload": "upload_corpus",
}
"""What the client calls a method where it says more than the method's name."""


@pytest.mark.parametrize(("service", "calls"), list(zip(SERVICES, (Client, Admin), strict=True)), ids=["user", "admin"])
def test_every_method_of_the_gateway_has_a_call(service: ServiceDescriptor, calls: type) -> None:
    for method in service.methods:
        name = OTHER_NAMES.get(method.name) or re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
        assert callable(getattr(calls, name, None)), f"{calls.__name__} has no {name}"
        assert getattr(calls, name).__doc__, name
