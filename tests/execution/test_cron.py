"""When a schedule is due: expressions, time zones, and the hours that clocks skip and double."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrel_chassis.errors import CarrelError
from carrel_execution.schedules.cron import MAX_CHARACTERS, check_cron, next_time

VIENNA = "Europe/Vienna"
NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


def times(expression: str, time_zone: str, after: datetime) -> Iterator[str]:
    """When it is due, one after the other, in UTC."""
    due: datetime | None = after
    while due := next_time(expression, time_zone, due):
        yield due.strftime("%m-%d %H:%M")


@pytest.mark.parametrize(
    ("expression", "time_zone", "due"),
    [
        ("* * * * *", "", "2026-01-01 12:01"),
        ("*/15 * * * *", "", "2026-01-01 12:15"),
        ("0 12 * * *", "", "2026-01-02 12:00"),
        ("30 7 * * MON-FRI", VIENNA, "2026-01-02 06:30"),
        ("0 0 29 2 *", "", "2028-02-29 00:00"),
        ("0 9 L * *", "America/New_York", "2026-01-31 14:00"),
        ("0 9 * * 5#1", "Asia/Kathmandu", "2026-01-02 03:15"),
    ],
)
def test_it_is_due_at_the_next_time_that_fits(expression: str, time_zone: str, due: str) -> None:
    assert f"{check_cron(expression, time_zone, NOW):%Y-%m-%d %H:%M}" == due


def test_what_falls_into_a_skipped_hour_is_done_once_when_the_clocks_have_gone_forward() -> None:
    """On 2026-03-29 Vienna's clocks go from 02:00 to 03:00, at 01:00 UTC."""
    night = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert list(islice(times("30 2 * * *", VIENNA, night), 2)) == ["03-29 01:00", "03-30 00:30"]
    assert list(islice(times("0,30 2,3 * * *", VIENNA, night), 3)) == ["03-29 01:00", "03-29 01:30", "03-30 00:00"]


def test_what_falls_into_a_doubled_hour_is_done_once_in_the_first() -> None:
    """On 2026-10-25 they go from 03:00 back to 02:00, at 01:00 UTC."""
    evening = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert list(islice(times("30 2 * * *", VIENNA, evening), 2)) == ["10-25 00:30", "10-26 01:30"]
    in_the_second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert list(islice(times("30 2 * * *", VIENNA, in_the_second), 1)) == ["10-26 01:30"]


@pytest.mark.parametrize(("day", "count"), [(29, 23), (30, 24)])
def test_each_hour_goes_by_real_time(day: int, count: int) -> None:
    midnight = datetime(2026, 3, day, tzinfo=UTC) - timedelta(hours=1 if day == 29 else 2)
    following = datetime(2026, 3, day + 1, tzinfo=UTC) - timedelta(hours=2)
    hours = (following - midnight) // timedelta(hours=1)
    due = list(islice(times("0 * * * *", VIENNA, midnight), hours))
    assert hours == count and due[-1] == following.strftime("%m-%d %H:%M")


@pytest.mark.parametrize(
    ("expression", "time_zone", "field"),
    [
        ("", "", "cron"),
        ("* * * *", "", "cron"),
        ("* * * * * *", "", "cron"),  # seconds: more often than once a minute
        ("60 * * * *", "", "cron"),
        ("@daily", "", "cron"),
        ("0 0 30 2 *", "", "cron"),
        ("0 0 31 4,6,9,11 *", "", "cron"),
        ("*/0 * * * *", "", "cron"),
        ("1," * 60 + "1 * * * *", "", "cron"),
        ("* * * * *", "Europe/Atlantis", "time_zone"),
        ("* * * * *", "../../etc/passwd", "time_zone"),
        ("* * * * *", "/etc/localtime", "time_zone"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_its_field(expression: str, time_zone: str, field: str) -> None:
    with pytest.raises(CarrelError) as refusal:
        check_cron(expression, time_zone, NOW)
    assert (refusal.value.reason, [*refusal.value.fields]) == ("INVALID_ARGUMENT", [field])


@settings(max_examples=500)
@given(
    st.lists(st.text("0123456789*/-,L#WMONJA ", max_size=12), min_size=5, max_size=5).map(" ".join),
    st.sampled_from(["", VIENNA, "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_whatever_is_written_is_due_later_or_refused(expression: str, time_zone: str) -> None:
    try:
        due = check_cron(expression[:MAX_CHARACTERS], time_zone, NOW)
    except CarrelError as refusal:
        assert refusal.reason == "INVALID_ARGUMENT"
    else:
        assert due > NOW and (due.second, due.microsecond) == (0, 0)
        following = next_time(expression[:MAX_CHARACTERS], time_zone, due)
        assert following is None or following - due >= timedelta(minutes=1)
