"""One running system for all tests: real PostgreSQL, real NATS, real processes. Each test brings new tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from carrel_chassis.stack import Stack
from tests.support.system import Person, System, test_settings


@pytest_asyncio.fixture(scope="session")
async def system(tmp_path_factory) -> AsyncIterator[System]:
    """The system that the tests share. Tests that kill or misconfigure start one of their own."""
    data_dir = tmp_path_factory.mktemp("system") / "data"
    async with Stack(test_settings(data_dir)) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


@pytest_asyncio.fixture
async def ada(system: System) -> Person:
    """A user."""
    return await system.person()


@pytest_asyncio.fixture
async def eve(system: System) -> Person:
    """A user of another tenant, who tries."""
    return await system.person()
