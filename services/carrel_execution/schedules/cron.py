"""When a schedule is due: cron expressions of five fields in a time zone. It knows no schedule and no clock.

Hours that clocks skip or double are as in Debian's cron: what was to happen at a time that is skipped happens when the clocks have gone
forward, what falls into a doubled hour happens once, in the first. An expression whose minute or hour begins with `*` goes by real time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from carrel_chassis.errors import invalid

MAX_CHARACTERS = 100
_FIELDS = 5
_EXAMPLE = '"30 7 * * MON-FRI"'


def check_cron(expression: str, time_zone: str, now: datetime) -> datetime:
    """When a new schedule is due for the first time, after `now`; INVALID_ARGUMENT when it never is, or cannot be understood."""
    if len(expression) > MAX_CHARACTERS:
        raise invalid("cron", f"cron has {len(expression)} characters; it has at most {MAX_CHARACTERS}.")
    if len(expression.split()) != _FIELDS:
        raise invalid("cron", f"cron has not five fields: minute, hour, day, month and day of the week, as {_EXAMPLE}.")
    if time_zone and time_zone not in _time_zones():
        raise invalid("time_zone", 'time_zone is not a name that IANA knows; use one such as "Europe/Vienna".')
    try:
        due = next_time(expression, time_zone, now)
    # cronsim says so itself of what it does not understand; a few oddities ("*/,") it only stumbles over.
    except (CronSimError, AssertionError, ValueError, OverflowError) as error:
        raise invalid("cron", f"cron cannot be understood ({error}); write it as {_EXAMPLE}.") from None
    if due is None:
        raise invalid("cron", "cron names a day that does not come within 50 years; choose another.")
    return due


def next_time(expression: str, time_zone: str, after: datetime) -> datetime | None:
    """The first time after `after`, in UTC; None when there is none within 50 years."""
    zone = ZoneInfo(time_zone) if time_zone else UTC
    for due in CronSim(expression, after.astimezone(zone)):
        # In the second of two doubled hours it begins with the first, which is over.
        if due.astimezone(UTC) > after:
            return due.astimezone(UTC)
    return None


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
