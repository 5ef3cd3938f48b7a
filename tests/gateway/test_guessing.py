"""Guessing: what counts, for whom, and that it is forgotten with time."""

from __future__ import annotations

import pytest

from carrel_chassis.errors import CarrelError, Kind
from carrel_gateway.admission import Limits
from carrel_gateway.guessing import Guessing, origin_of


class Clock:
    """Seconds that a test lets pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def guess(guessing: Guessing, source: str, reason: str = "CREDENTIAL_INVALID") -> str:
    """The reason that an attempt ends with."""
    try:
        with guessing.attempt(source):
            raise CarrelError(Kind.UNAUTHENTICATED, reason, "It is wrong.")
    except CarrelError as error:
        return error.reason


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guessing(clock: Clock) -> Guessing:
    """Two at once, then one a second."""
    limits = Limits(user_calls_per_second=1.0, tenant_calls_per_second=1.0, burst_seconds=2.0)
    return Guessing(limits, 1.0, clock)


def test_after_some_wrong_ones_an_address_waits_and_others_do_not(guessing: Guessing, clock: Clock) -> None:
    assert [guess(guessing, "192.0.2.1") for _ in range(3)] == ["CREDENTIAL_INVALID"] * 2 + ["LIMIT_EXCEEDED"]
    assert guess(guessing, "192.0.2.2") == "CREDENTIAL_INVALID"
    clock.now = 1.0
    assert [guess(guessing, "192.0.2.1") for _ in range(2)] == ["CREDENTIAL_INVALID", "LIMIT_EXCEEDED"]


def test_good_ones_and_faults_of_ours_cost_nothing(guessing: Guessing) -> None:
    for _ in range(100):
        with guessing.attempt("192.0.2.1"):
            pass
        assert guess(guessing, "192.0.2.1", "UNAVAILABLE") == "UNAVAILABLE"


def test_a_network_of_ipv6_is_one_guesser(guessing: Guessing) -> None:
    sources = [f"2001:db8:0:1::{number:x}" for number in range(3)]
    assert [guess(guessing, source) for source in sources] == ["CREDENTIAL_INVALID"] * 2 + ["LIMIT_EXCEEDED"]
    assert guess(guessing, "2001:db8:0:2::1") == "CREDENTIAL_INVALID"
    assert (origin_of("::ffff:192.0.2.1"), origin_of("unix")) == ("192.0.2.1", "unix")
