"""Values on a command line: times, spans of time, names of states. What is none is wrong usage."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

_SPAN = re.compile(r"(\d{1,9})([smhd])").fullmatch
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def span_from(text: str | None, option: str) -> timedelta | None:
    """`90s`, `10m`, `2h`, `1d`."""
    if text is None:
        return None
    match = _SPAN(text)
    if match is None:
        raise typer.BadParameter(f"{text} is no span of time; say 90s, 10m, 2h or 1d.", param_hint=f"'{option}'")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def moment_from(text: str | None, option: str) -> datetime | None:
    """A time of ISO 8601 with its zone, or a span from now."""
    if text is None:
        return None
    if _SPAN(text):
        return datetime.now(UTC) + (span_from(text, option) or timedelta())
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        message = f"{text} is no time with a zone; say 2026-11-21T07:30+01:00, 2026-11-21T06:30Z, or 10m from now."
        raise typer.BadParameter(message, param_hint=f"'{option}'")
    return moment


def enum_value(kind: Any, prefix: str, name: str, option: str) -> Any:
    """The value of an enum by its name, in any case and without the prefix."""
    known = {full.removeprefix(f"{prefix}_").lower(): number for full, number in kind.items() if number}
    found = known.get(name.lower().replace("-", "_"))
    if found is None:
        raise typer.BadParameter(f"{name} is none of {', '.join(known)}.", param_hint=f"'{option}'")
    return found
