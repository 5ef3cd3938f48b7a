"""Short rounds of the real thing, each repeatable by its seed: runs, while what they stand on is killed and paused."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.run_stack import RunStack, run_stack
from tests.chaos.runs import play


@pytest_asyncio.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunStack]:
    async with run_stack(tmp_path_factory.mktemp("chaos") / "data") as running:
        yield running


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", ["test-0", "test-1"])
async def test_every_run_ends_once_and_nothing_is_done_twice_whatever_breaks(running: RunStack, seed: str) -> None:
    counts = Counter[str]()
    assert await play(running, seed, 8, counts) == []
    assert counts["attempts"] >= counts["runs"] * 0.8 > 0
