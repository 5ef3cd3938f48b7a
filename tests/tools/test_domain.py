"""What follows from a line of the ledger, without a ledger."""

from __future__ import annotations

import pytest

from carrel_chassis.errors import CarrelError
from carrel_tools import domain
from carrel_tools.domain import Begun, Ending, Outcome, Repeat, Step

STEP = Step("run-a", "1", 2, "echo", "abc", Repeat.IDEMPOTENT, "default.tools", "0")


def begun(outcome: Outcome, *, newest: int = 2, tool: str = "echo", sha256: str = "abc") -> Begun:
    ending = Ending(outcome, '{"a":1}', "SQL_ERROR", "Say it otherwise.")
    return Begun("call-a", False, newest, tool, sha256, ending)


def test_a_step_that_succeeded_gives_its_result():
    assert domain.replay(begun(Outcome.SUCCEEDED), STEP) == '{"a":1}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (begun(Outcome.SUCCEEDED, newest=3), "STALE_ATTEMPT"),
        (begun(Outcome.SUCCEEDED, newest=3, sha256="abd"), "STALE_ATTEMPT"),
        (begun(Outcome.SUCCEEDED, sha256="abd"), "STEP_REUSED"),
        (begun(Outcome.INTENDED, tool="count"), "STEP_REUSED"),
        (begun(Outcome.FAILED), "TOOL_FAILED"),
        (begun(Outcome.UNKNOWN), "OUTCOME_UNKNOWN"),
        (begun(Outcome.INTENDED), "UNAVAILABLE"),
    ],
)
def test_a_step_that_did_not_says_why(line: Begun, reason: str):
    with pytest.raises(CarrelError) as raised:
        domain.replay(line, STEP)
    assert raised.value.reason == reason
    assert raised.value.metadata.get("replayed") == ("true" if reason in ("TOOL_FAILED", "OUTCOME_UNKNOWN") else None)


def test_equal_arguments_have_one_digest_whatever_their_order():
    one, two = domain.read_arguments('{"a": 1, "b": [2]}'), domain.read_arguments('{"b":[2],"a":1}')
    assert domain.sha256_of(one) == domain.sha256_of(two) != domain.sha256_of({"a": 1})


def test_a_sentence_is_short_and_can_be_stored():
    assert domain.sentence("a\x00\ud800") == "a\ufffd?"
    assert len(domain.sentence("x" * 10_000)) == domain.MAX_SENTENCE


@pytest.mark.parametrize("step_id", ["1", "0/12", "plan.3:tool#1"])
def test_a_place_in_a_run_is_a_step_id(step_id: str):
    assert domain.check_step_id(step_id) == step_id


@pytest.mark.parametrize("step_id", ["", "a b", "a\n", "x" * 257, "ü"])
def test_other_text_is_no_step_id(step_id: str):
    with pytest.raises(CarrelError):
        domain.check_step_id(step_id)
