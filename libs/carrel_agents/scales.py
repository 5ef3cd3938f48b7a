"""Where the marks of a chart's axes stand, and what is written at them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain, count
from typing import NamedTuple

from carrel_agents.formula import show

_DAY = 1440
_MINUTE_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)


class Mark(NamedTuple):
    """A place on an axis, in the axis's own units, and what is written there."""

    place: int
    label: str


def round_marks(highest: int, *, most: int = 4) -> list[Mark]:
    """From 0 to the first mark that is not below a count: at most `most` steps of 1, 2 or 5 times a power of ten."""
    steps: Iterator[int] = (each * 10**power for power in count() for each in (1, 2, 5))
    step = next(step for step in steps if step * most >= highest)
    return [Mark(step * number, short(step * number)) for number in range(-(-highest // step) + 1)]


def short(number: int) -> str:
    """A round number with few characters: 1,500, 20 k, 1.5 M."""
    for least, unit, sign in ((10**9, 10**9, "G"), (10**6, 10**6, "M"), (10**4, 10**3, "k")):
        if number >= least:
            return f"{show(number / unit)} {sign}"
    return show(number)


def time_marks(first_minute: str, minutes: int, *, most: int = 8) -> list[Mark]:
    """Round times in so many minutes from `first_minute`, as minutes since it: at most about `most`, midnights by their date."""
    first = datetime.fromisoformat(first_minute)
    midnight = first.replace(hour=0, minute=0)
    step = round_minutes(minutes, most)
    offset = int((first - midnight).total_seconds()) // 60
    places = range(-offset % min(step, _DAY), minutes, step)
    return [Mark(place, _time(first + timedelta(minutes=place))) for place in places]


def round_minutes(minutes: int, most: int) -> int:
    """The shortest round stretch of time of which `most` last so many minutes or longer: 1, 2, 5, ... minutes, hours, days."""
    days: Iterator[int] = (_DAY * each * 10**power for power in count() for each in (1, 2, 5))
    return next(step for step in chain(_MINUTE_STEPS, days) if step * most >= minutes)


def length(minutes: int) -> str:
    """A round stretch of time in words, to follow "each": "minute", "2 hours"."""
    units = ((_DAY, "day"), (60, "hour"), (1, "minute"))
    size, name = next(unit for unit in units if minutes % unit[0] == 0)
    return name if minutes == size else f"{show(minutes // size)} {name}s"


def spaced(labels: Sequence[str], room: float, width_of_character: float = 7.0) -> int:
    """How far apart the labels are that can be written where there is so much room for each: 1 is all, 2 every second."""
    widest = max(map(len, labels)) * width_of_character
    return max(1, -(-int(widest + width_of_character) // int(room)))


def _time(moment: datetime) -> str:
    return f"{moment:%m-%d}" if (moment.hour, moment.minute) == (0, 0) else f"{moment:%H:%M}"
