"""The log of a user as values: positions, what a reader wants, what a read found. It knows no wire, no SQL and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext

MAX_OFFSET = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a user's log: after the event with this offset. The epoch names the log itself, which may begin anew."""

    epoch: int
    offset: int

    def metadata(self) -> dict[str, str]:
        """The position as an error carries it."""
        return {"epoch": str(self.epoch), "offset": str(self.offset)}


START = Cursor(0, 0)
"""Before the oldest event that is kept, whatever the epoch; what an absent cursor means."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a reader wants; what is empty wants all."""

    thread_id: str = ""
    run_id: str = ""
    types: tuple[str, ...] = ()

    def wants(self, thread_id: str, run_id: str, type: str) -> bool:
        """Whether an event of this thread, run and type is wanted."""
        return (
            (not self.thread_id or self.thread_id == thread_id)
            and (not self.run_id or self.run_id == run_id)
            and (not self.types or type in self.types)
        )


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event on its way into the log: what the log finds it by, and its body, which the log does not look into."""

    event_id: str
    type: str
    create_time: datetime
    body: bytes
    ephemeral: bool = False
    """It is only passed on to those who read now."""
    final: bool = False
    """Nothing of its run comes after it."""


@dataclass(frozen=True, slots=True)
class Append:
    """What one call appends, in its order, as the user and run that its context names."""

    user: UserContext
    sent: tuple[NewEvent, ...]

    @property
    def events(self) -> tuple[NewEvent, ...]:
        """Those for the log."""
        return tuple(event for event in self.sent if not event.ephemeral)

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(len(event.body) for event in self.sent)


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append has done: whether a later attempt had written, where the log stands, and what is new, in order."""

    stale: bool
    epoch: int
    last_offset: int
    new_ids: tuple[str, ...]
    new_offsets: tuple[int, ...]

    @property
    def last(self) -> Cursor:
        """Where the log stands."""
        return Cursor(self.epoch, self.last_offset)


@dataclass(frozen=True, slots=True)
class LogState:
    """Which log it is, and what it holds: the offsets from the oldest to the last. A log without an event is none yet."""

    epoch: int
    oldest_offset: int
    last_offset: int


NO_LOG = LogState(epoch=0, oldest_offset=1, last_offset=0)


@dataclass(frozen=True, slots=True)
class LogRead:
    """What one read of the log found: events as (offset, body), in order, and whether it stopped at its limit."""

    state: LogState
    rows: tuple[tuple[int, bytes], ...]
    cut: bool

    def position(self, after: Cursor) -> Cursor:
        """Where the reader stands now. A read that saw the log's end has passed over what it did not want."""
        if self.state is NO_LOG:
            return after
        last = self.rows[-1][0] if self.cut else self.state.last_offset
        return Cursor(self.state.epoch, last)


def check_cursor(after: Cursor, state: LogState) -> None:
    """Raises HISTORY_TRUNCATED or CURSOR_INVALID unless the log can be read on from this cursor without a gap."""
    if after == START:
        return
    if after.epoch != state.epoch or after.offset < state.oldest_offset - 1:
        raise CarrelError(
            Kind.TOO_OLD,
            "HISTORY_TRUNCATED",
            "Events after this cursor are no longer kept; begin again without a cursor.",
            metadata={
                "epoch": str(state.epoch),
                "oldest_offset": str(state.oldest_offset),
                "newest_offset": str(state.last_offset),
            },
        )
    if after.offset > state.last_offset:
        raise CarrelError(
            Kind.INVALID,
            "CURSOR_INVALID",
            f"The log ends at offset {state.last_offset}; use a cursor that came with an event or a position.",
            metadata={"field": "after", "newest_offset": str(state.last_offset)},
            fields={"after": "The cursor lies beyond the end of the log."},
        )


def stale_attempt(run_id: str, attempt: int) -> CarrelError:
    """The refusal of a producer that has been replaced."""
    return CarrelError(
        Kind.RACED,
        "STALE_ATTEMPT",
        f"A later attempt of the run has written than attempt {attempt}; stop.",
        metadata={"run_id": run_id, "attempt": str(attempt)},
    )


def run_not_found(run_id: str) -> CarrelError:
    """The answer about a run without an event in the log of who asks, whoever else may have it."""
    return CarrelError(
        Kind.NOT_FOUND,
        "RUN_NOT_FOUND",
        "The log has no event of this run.",
        metadata={"run_id": run_id},
    )
