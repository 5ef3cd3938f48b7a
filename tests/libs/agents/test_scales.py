"""The marks of an axis are round, cover what is shown, and are few enough to be read."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrel_agents.scales import length, round_marks, round_minutes, short, spaced, time_marks


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_marks_of_counts_cover_the_highest_by_few_round_steps(highest: int) -> None:
    marks = round_marks(highest)
    steps = {after.place - before.place for before, after in pairwise(marks)}
    assert marks[0].place == 0 and len(marks) <= 5
    assert marks[-1].place >= highest and (len(marks) == 1 or marks[-2].place < highest)
    assert all(re.fullmatch("[125]0*", str(step)) for step in steps) and len(steps) <= 1
    assert len({mark.label for mark in marks}) == len(marks)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (8_000, "8,000"), (20_000, "20 k"), (1_500_000, "1.5 M"), (3 * 10**9, "3 G"), (250_000, "250 k")],
)
def test_a_round_number_is_written_short(number: int, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize(
    ("first", "minutes", "labels"),
    [
        ("2023-11-16T18:15", 60, ["18:20", "18:30", "18:40", "18:50", "19:00", "19:10"]),
        ("2023-11-16T18:15", 1, ["18:15"]),
        ("2023-11-16T22:00", 480, ["22:00", "23:00", "11-17", "01:00", "02:00", "03:00", "04:00", "05:00"]),
        ("2023-02-27T12:00", 4 * 1440, ["12:00", "02-28", "12:00", "03-01", "12:00", "03-02", "12:00", "03-03"]),
        ("2023-12-30T23:59", 30 * 1440, ["12-31", "01-05", "01-10", "01-15", "01-20", "01-25"]),
        ("2023-12-30T00:00", 400 * 1440, ["12-30", "02-18", "04-08", "05-28", "07-17", "09-05", "10-25", "12-14"]),
    ],
)
def test_marks_of_times_are_round_times(first: str, minutes: int, labels: list[str]) -> None:
    assert [mark.label for mark in time_marks(first, minutes)] == labels


@settings(deadline=None)
@given(st.datetimes(), st.integers(1, 10**7))
def test_marks_of_times_are_few_and_within_the_chart(first: object, minutes: int) -> None:
    marks = time_marks(f"{first:%Y-%m-%dT%H:%M}".rjust(16, "0"), min(minutes, 10**6))
    assert len(marks) <= 9 and all(0 <= mark.place < minutes for mark in marks)


@pytest.mark.parametrize(
    ("minutes", "step", "text"),
    [
        (60, 1, "minute"),
        (61, 2, "2 minutes"),
        (3_600, 60, "hour"),
        (10_000, 180, "3 hours"),
        (10**6, 28_800, "20 days"),
    ],
)
def test_the_parts_of_a_time_are_round_and_at_most_sixty(minutes: int, step: int, text: str) -> None:
    assert round_minutes(minutes, 60) == step
    assert length(step) == text


def test_labels_are_left_out_where_there_is_no_room_for_each() -> None:
    assert spaced(["1", "2"], 100) == 1
    assert spaced(["1,048,576"] * 20, 30) == 3
