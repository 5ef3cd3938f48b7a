"""The history checker: what was acknowledged, what the logs hold at the end, what readers received, and whether it fits together.

Pure, and after the fact: it knows no service, no clock and no fault that was injected. An append whose answer never came may have happened
or not; everything that was acknowledged must be there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as somebody saw it: in a log, or on a stream."""

    owner: Owner
    offset: int
    event_id: str
    run_id: str = ""
    thread_id: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asked for; empty wants all."""

    run_id: str = ""
    thread_id: str = ""
    types: frozenset[str] = frozenset()

    def fits(self, entry: Entry) -> bool:
        return (
            self.run_id in ("", entry.run_id)
            and self.thread_id in ("", entry.thread_id)
            and (not self.types or entry.type in self.types)
        )


@dataclass(slots=True)
class Reading:
    """One stream from its opening to its end, however it ended."""

    reader: str
    owner: Owner
    wanted: Wanted
    after: int
    position: int
    """How far the reader has come: all that is wanted up to here was received, or it was lost."""
    received: list[Entry] = field(default_factory=list)
    to_the_end: bool = False
    """It was read until it stood at the end of the log."""


@dataclass(slots=True)
class History:
    """All that was recorded."""

    sent: dict[Owner, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The ids of each run of each user would do; kept by user, in the order in which each run sent them."""
    run_of: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[Owner, set[str]] = field(default_factory=lambda: defaultdict(set))
    logs: dict[Owner, Sequence[Entry]] = field(default_factory=dict)
    """Read at the end, from the first event on."""
    readings: list[Reading] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that must never be."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.where}: {self.what}"


def check(history: History) -> list[Fault]:
    """Everything that is wrong, the first few of each place."""
    faults: list[Fault] = []
    for owner, log in history.logs.items():
        faults += _log_faults(history, owner, log)
    for reading in history.readings:
        faults += _reading_faults(reading, history.logs)
    return faults


def _log_faults(history: History, owner: Owner, log: Sequence[Entry]) -> Iterator[Fault]:
    where = f"the log of {owner[1]}"
    for place, entry in enumerate(log, 1):
        if entry.offset != place:
            yield Fault(
                "gap" if entry.offset > place else "duplicate", where, f"offset {entry.offset} at place {place}"
            )
            break
    ids = Counter(entry.event_id for entry in log)
    yield from (Fault("duplicate", where, event_id) for event_id, count in ids.items() if count > 1)
    yield from (Fault("lost", where, event_id) for event_id in sorted(history.acknowledged[owner] - ids.keys()))
    yield from (Fault("foreign", where, e.event_id) for e in log if e.owner != owner)
    yield from (Fault("invented", where, event_id) for event_id in sorted(ids.keys() - set(history.sent[owner])))
    yield from _run_order_faults(history, owner, log, where)


def _run_order_faults(history: History, owner: Owner, log: Sequence[Entry], where: str) -> Iterator[Fault]:
    order = {event_id: place for place, event_id in enumerate(history.sent[owner])}
    last: dict[str, int] = {}
    for entry in log:
        place = order.get(entry.event_id, -1)
        if place < last.get(entry.run_id, -1):
            yield Fault("order", where, f"{entry.event_id} of {entry.run_id} after one that was sent later")
        last[entry.run_id] = max(place, last.get(entry.run_id, -1))


def _reading_faults(reading: Reading, logs: Mapping[Owner, Sequence[Entry]]) -> Iterator[Fault]:
    where = f"{reading.reader} of {reading.owner[1]} from {reading.after} to {reading.position}"
    log = logs[reading.owner]
    if foreign := [entry for entry in reading.received if entry.owner != reading.owner]:
        yield Fault("foreign", where, foreign[0].event_id)
    expected = [e for e in log if reading.after < e.offset <= reading.position and reading.wanted.fits(e)]
    if reading.received != expected:
        yield _difference(where, reading.received, expected)
    if reading.to_the_end and reading.position != len(log):
        yield Fault("incomplete", where, f"the log ends at {len(log)}")


def _difference(where: str, received: Sequence[Entry], expected: Sequence[Entry]) -> Fault:
    """Names the first event that is wrong, by the kind of wrong it is."""
    got, due = [entry.event_id for entry in received], [entry.event_id for entry in expected]
    if doubled := _first(event_id for event_id, count in Counter(got).items() if count > 1):
        return Fault("duplicate", where, doubled)
    if missing := _first(event_id for event_id in due if event_id not in set(got)):
        return Fault("gap", where, missing)
    if surplus := _first(event_id for event_id in got if event_id not in set(due)):
        return Fault("unwanted", where, surplus)
    return Fault("order", where, next(a.event_id for a, b in zip(received, expected, strict=True) if a != b))


def _first(ids: Iterable[str]) -> str:
    return next(iter(ids), "")
