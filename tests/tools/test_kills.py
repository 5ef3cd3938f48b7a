"""A process killed between intent, effect and result: short rounds of the real thing, and the check that would notice."""

from __future__ import annotations

import pytest

from tests.chaos.tools import Case, dispatchers, play


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (Case("count", "k", "ok", "ok", 1), ""),
        (Case("count", "k", "LATER", "OUTCOME_UNKNOWN", 0), ""),
        (Case("count", "k", "LATER", "OUTCOME_UNKNOWN", 1), ""),
        (Case("count", "k", "LATER", "ok", 1), ""),
        (Case("post", "k", "LATER", "ok", 1), ""),
        (Case("count", "k", "LATER", "ok", 2), "2 effects"),
        (Case("count", "k", "LATER", "OUTCOME_UNKNOWN", 2), "2 effects"),
        (Case("post", "k", "ok", "ok", 2), "2 effects"),
        (Case("count", "k", "LATER", "ok", 0), "a success without an effect"),
        (Case("count", "k", "ok", "OUTCOME_UNKNOWN", 1), "a result that had been told was forgotten"),
        (Case("post", "k", "LATER", "OUTCOME_UNKNOWN", 1), "the successor answered OUTCOME_UNKNOWN"),
        (Case("count", "k", "LATER", "LATER", 1), "the successor answered LATER"),
    ],
)
def test_the_check_sees_what_must_not_be(case: Case, fault: str):
    assert case.fault() == fault


async def test_no_kill_makes_an_effect_happen_twice_or_a_result_be_forgotten(tmp_path_factory):
    async with dispatchers(tmp_path_factory.mktemp("kills") / "data", replicas=2) as system:
        counts, faults = await play(system, 6, "short")
    assert faults == []
    assert counts.total() == 36
