"""The part of a trace that a question is about: dates and times in it, as ISO 8601 writes them. Nothing else is taken for one."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from carrel_agents.values import TimeRange

MOMENT = re.compile(
    r"(?<![\w.-])((?:19[7-9]|2[01]\d)\d-\d\d-\d\d)(?:[T ](\d\d:\d\d)(:\d\d)?)?(Z|[+-]\d\d:\d\d)?(?![\w-])", re.ASCII
)
"""A day, a minute or a second, each for as long as it lasts."""


def find_time_range(question: str) -> tuple[TimeRange | None, tuple[str, ...]]:
    """From the begin of the first moment named to the end of the last, and the moments as written; None where there is none."""
    spans = [(_span(match), match[0]) for match in MOMENT.finditer(question)]
    known = [(span, text) for span, text in spans if span is not None]
    if not known:
        return None, ()
    begin, end = min(span[0] for span, _ in known), max(span[1] for span, _ in known)
    return TimeRange(begin=_iso(begin), end=_iso(end)), tuple(text for _, text in known)


def _span(match: re.Match[str]) -> tuple[datetime, datetime] | None:
    day, minute, second, zone = match.groups()
    lasts = timedelta(days=1) if minute is None else timedelta(minutes=1) if second is None else timedelta(seconds=1)
    text = f"{day}T{minute or '00:00'}{second or ''}{(zone or 'Z').replace('Z', '+00:00')}"
    try:
        begin = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return begin, begin + lasts


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S")
