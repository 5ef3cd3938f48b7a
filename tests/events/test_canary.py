"""The canary sings while all is well, and says what is wrong when it is not."""

from __future__ import annotations

import os

import pytest

from carrel import Client
from carrel_chassis.stack.ports import free_ports
from carrel_events.canary import Canary, CanarySettings
from tests.support.system import Person, System

only = os.environ.get("CARREL_TEST_ONLY")
whole_system = pytest.mark.skipif(bool(only), reason="needs the whole system")


def settings(address: str, key: str, **changes: object) -> CanarySettings:
    return CanarySettings(gateway_address=address, canary_api_key=key, canary_timeout_seconds=10, **changes)


@whole_system
async def test_all_is_well_again_and_again(system: System, ada: Person) -> None:
    told = settings(system.addresses["gateway"], await system.api_key(ada))
    async with Client(told.gateway_address, told.canary_api_key.get_secret_value()) as client:
        canary = Canary(client, told)
        assert [await canary.check() for _ in range(3)] == ["", "", ""]


@whole_system
async def test_a_key_that_is_none_is_reported_by_its_reason(system: System) -> None:
    told = settings(system.addresses["gateway"], "no-key")
    async with Client(told.gateway_address, "no-key") as client:
        assert await Canary(client, told).check() == "CREDENTIAL_INVALID"


async def test_a_gateway_that_is_away_is_reported() -> None:
    told = settings(f"127.0.0.1:{free_ports(1)[0]}", "key").model_copy(update={"canary_timeout_seconds": 1.0})
    async with Client(told.gateway_address, "key") as client:
        assert await Canary(client, told).check() in ("UNAVAILABLE", "late")
