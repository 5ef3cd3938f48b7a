"""Schedules as values: what one is, what a request may hold, how it is refused. It knows no clock, no wire and no database."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from carrel_chassis.errors import CarrelError, Kind
from carrel_execution.domain import BusyThread
from carrel_execution.runs.start import StartRequest

CHECK_EVERY = timedelta(days=1)
"""How often it is asked whether a schedule's session still counts, even if nothing is due: a revoked session is remembered for weeks, and
a schedule may sleep for years."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Runs that begin by the clock, as their user sees them."""

    schedule_id: str
    cron: str
    time_zone: str
    """An IANA name; "" is UTC."""
    agent: str
    input_json: str
    thread_id: str
    """ "": each run has a thread of its own."""
    busy_thread: BusyThread
    priority: int
    paused: bool
    create_time: datetime
    next_time: datetime | None
    """None while it is paused."""
    last_run_id: str
    last_error: str


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """What a caller asks for. `start` is what each run begins with; its request_id is that of the schedule."""

    cron: str
    time_zone: str
    start: StartRequest

    @property
    def digest(self) -> bytes:
        """Tells whether the same request_id comes with the same content."""
        parts = (self.cron, self.time_zone, self.start.digest.hex())
        return hashlib.sha256("\0".join(parts).encode()).digest()


def schedule_not_found(schedule_id: str) -> CarrelError:
    """The schedule is absent or another user's: the same answer."""
    return CarrelError(
        Kind.NOT_FOUND,
        "SCHEDULE_NOT_FOUND",
        f"You have no schedule {schedule_id}; list your schedules to see which you have.",
        metadata={"schedule_id": schedule_id},
    )


def too_many_schedules(most: int) -> CarrelError:
    """The user has as many as may be."""
    return CarrelError(
        Kind.OVER_LIMIT,
        "LIMIT_EXCEEDED",
        f"You have {most} schedules, as many as may; delete some.",
        metadata={"limit": "schedules", "value": str(most)},
        retry_seconds=60.0,
    )


def made_by_a_run() -> CarrelError:
    """The context belongs to a run: what it may do ends with the run, and a schedule would not."""
    message = "A run cannot make a schedule or let one go on, which would outlive it; use a session or an API key."
    return CarrelError(Kind.DENIED, "WIDENING_REFUSED", message, metadata={"field": "run_id"})
