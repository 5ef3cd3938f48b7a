"""Real engines, started once for the tests that leave them as they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from carrel_chassis.stack import Stack, StackSettings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder that is removed, large as it is, when the test is over; outside of pytest's own 0700 folder."""
    path = Path(tempfile.mkdtemp(prefix="carrel-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engines() -> AsyncIterator[Stack]:
    """PostgreSQL and NATS, with the roles and schemas; nobody may stop them."""
    path = Path(tempfile.mkdtemp(prefix="carrel-test-"))
    async with Stack(StackSettings(path, fast=True, only=())) as stack:
        yield stack
    shutil.rmtree(path, ignore_errors=True)
