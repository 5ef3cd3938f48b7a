"""A seeded 20,000 wrong contexts: none is accepted and none crashes. A million: `python -m tests.fuzz.contexts --cases 1000000`."""

from __future__ import annotations

import pytest

from tests.fuzz.contexts import fuzz


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_wrong_context_is_accepted_and_none_crashes(seed: int) -> None:
    result = await fuzz(10_000, seed)
    assert not result.accepted and not result.crashes
    assert result.genuine == 100
    assert len(result.reasons) >= 3, result.reasons
