"""Channels to the gateway's two faces."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest_asyncio

from carrel_chassis.rpc.channel import open_channel
from tests.gateway.edge import Issuer, issuer_of
from tests.support.system import System


@pytest_asyncio.fixture(scope="session")
async def edge(system: System) -> AsyncIterator[grpc.aio.Channel]:
    """The gRPC face, with no credential."""
    channel = open_channel(system.addresses["gateway"])
    yield channel
    await channel.close()


@pytest_asyncio.fixture(scope="session")
async def issuer(system: System) -> Issuer:
    """Signs whatever a test asks for with the key that the gateway believes."""
    return issuer_of(system)
