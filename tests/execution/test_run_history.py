"""The checker of runs catches what it is there for: a good history has no fault, and each planted one is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.run_history import (
    TOLD_BY,
    Accepted,
    Change,
    Left,
    Rejected,
    RunHistory,
    Standing,
    Told,
    Written,
    check,
)

ADA, EVE = ("acme", "ada"), ("acme", "eve")


def recorded() -> RunHistory:
    """Ada has three runs, the first two in one thread. The first loses its worker and goes on as attempt 2; the last is cancelled."""
    history = RunHistory(running_limit=2)
    for number in (1, 2, 3):
        history.accepted.append(Accepted(ADA, f"request-{number}", f"run-{number}"))
    history.changes = [
        standing(1, "QUEUED", 0),
        standing(2, "QUEUED", 0),
        standing(3, "QUEUED", 0, "thread-3"),
        standing(1, "RUNNING", 1),
        Written("journal", "run-1", "1", 1),
        Written("ledger", "run-1", "2", 1),
        standing(3, "RUNNING", 1, "thread-3"),
        standing(1, "QUEUED", 1),
        standing(1, "RUNNING", 2),
        Written("ledger", "run-1", "2", 2),
        Written("journal", "run-1", "3", 2),
        standing(3, "CANCELLING", 1, "thread-3"),
        standing(3, "CANCELLED", 1, "thread-3"),
        standing(1, "SUCCEEDED", 2),
        standing(2, "RUNNING", 1),
        standing(2, "FAILED", 1),
    ]
    for run, attempt, type in (
        (1, 1, "run_queued"),
        (1, 1, "agent_started"),
        (3, 1, "agent_started"),
        (1, 2, "tool_completed"),
        (3, 1, "run_cancelled"),
        (1, 2, "agent_completed"),
        (2, 1, "agent_failed"),
    ):
        offset = len(history.logs[ADA]) + 1
        event = Told(ADA, offset, f"event-{offset}", f"run-{run}", type, attempt, final=type in TOLD_BY.values())
        history.logs[ADA].append(event)
    history.followed[ADA] = [told.event_id for told in history.logs[ADA]]
    history.ended = {"run-1": "SUCCEEDED", "run-2": "FAILED", "run-3": "CANCELLED"}
    history.effects = ["run-1.a", "run-2.a"]
    history.claimed_effects = {"run-1": ["run-1.a"]}
    # Run 3 was in another thread; a run that failed may have added itself, and says nothing of it.
    history.kept = {"run-1": ["run-2", "run-1"]}
    return history


def standing(run: int, state: str, epoch: int, thread: str = "thread-1") -> Standing:
    return Standing(ADA, f"run-{run}", thread, state, epoch)


def test_a_history_as_it_should_be_has_no_fault() -> None:
    assert check(recorded()) == []


@pytest.mark.parametrize(
    "plant",
    [
        lambda history: history.rejected.append(Rejected(ADA, "request-4")),
        lambda history: displacing("INTERRUPT", Left(ADA, "thread-3", "run-3", ("run-3",)))(history),
        lambda history: displacing("ROLLBACK", Left(ADA, "thread-3", "run-5", ("run-5",)))(history),
        lambda history: history.changes.append(replace(standing(5, "QUEUED", 0, "thread-3"), busy_thread="REJECT")),
        lambda history: (history.guarded.add("run-1.a"), history.consented.add("run-1.a")),
    ],
    ids=["rejected, and never seen", "interrupted", "rolled back", "a free thread", "consented"],
)
def test_what_may_happen_in_a_busy_thread_or_with_a_consent_is_no_fault(plant: Callable[[RunHistory], object]) -> None:
    history = recorded()
    plant(history)
    assert check(history) == []


def without(change: Standing) -> Callable[[RunHistory], None]:
    return lambda history: history.changes.remove(change)


def inserted(place: int, *changes: Change) -> Callable[[RunHistory], None]:
    def plant(history: RunHistory) -> None:
        history.changes[place:place] = changes

    return plant


def displacing(policy: str, *changes: Change) -> Callable[[RunHistory], None]:
    """A run that wants others out of its way, or is refused, comes before these changes, while run 3 is CANCELLING in its thread."""
    return inserted(12, replace(standing(5, "QUEUED", 0, "thread-3"), busy_thread=policy), *changes)


def without_cancelling(policy: str) -> Callable[[RunHistory], None]:
    """Run 3, which is RUNNING, is not told to make way."""
    return inserted(11, replace(standing(5, "QUEUED", 0, "thread-3"), busy_thread=policy))


def succeeds_all_the_same(policy: str) -> Callable[[RunHistory], None]:
    def plant(history: RunHistory) -> None:
        history.changes[12] = standing(3, "SUCCEEDED", 1, "thread-3")
        displacing(policy)(history)

    return plant


def rejected_and_begun(history: RunHistory) -> None:
    history.rejected.append(Rejected(ADA, "request-4"))
    history.changes.append(replace(standing(4, "QUEUED", 0, "thread-4"), request_id="request-4"))


def unasked(history: RunHistory) -> None:
    history.guarded.add("run-1.a")


def consented_and_done_twice(history: RunHistory) -> None:
    history.guarded.add("run-1.a")
    history.consented.add("run-1.a")
    history.effects.append("run-1.a")


def never_seen(history: RunHistory) -> None:
    history.changes = [change for change in history.changes if change.run_id != "run-2"]


def answered_with_another_run(history: RunHistory) -> None:
    history.accepted.append(Accepted(ADA, "request-1", "run-2"))


def read_otherwise(history: RunHistory) -> None:
    history.ended["run-2"] = "SUCCEEDED"


def in_log(place: int, **changes: object) -> Callable[[RunHistory], None]:
    def plant(history: RunHistory) -> None:
        history.logs[ADA][place] = replace(history.logs[ADA][place], **changes)  # type: ignore[arg-type]

    return plant


def told_again(history: RunHistory) -> None:
    """The final event of run-1 a second time, under another id."""
    history.logs[ADA].append(replace(history.logs[ADA][5], offset=8, event_id="event-8"))
    history.followed[ADA].append("event-8")


def told_after_its_end(history: RunHistory) -> None:
    history.logs[ADA].append(replace(history.logs[ADA][3], offset=8, event_id="event-8"))
    history.followed[ADA].append("event-8")


def never_told(history: RunHistory) -> None:
    history.logs[ADA].pop()
    history.followed[ADA].pop()


def kept(*runs: str) -> Callable[[RunHistory], None]:
    return lambda history: history.kept.update({"run-1": [*runs]})


def lost_what_was_kept(history: RunHistory) -> None:
    """Run 2 succeeds after run 1, and finds nothing of it."""
    history.changes[-1] = replace(history.changes[-1], state="SUCCEEDED")  # type: ignore[arg-type]
    history.kept = {"run-1": ["run-1"], "run-2": ["run-2"]}


PLANTED: dict[str, tuple[Callable[[RunHistory], object], str]] = {
    "an accepted run that no commit holds": (never_seen, "lost"),
    "an accepted run that never ends": (without(standing(2, "FAILED", 1)), "unended"),
    "a request that started two runs": (answered_with_another_run, "doubled"),
    "a run that fails where none may": (
        lambda history: setattr(history, "ends", frozenset({"SUCCEEDED", "CANCELLED"})),
        "failed",
    ),
    "a run that its user reads otherwise": (read_otherwise, "disagreement"),
    "a final run that begins again": (inserted(16, standing(2, "RUNNING", 2)), "revived"),
    "a final run that ends otherwise": (inserted(16, standing(2, "CANCELLED", 1)), "revived"),
    "a claim that does not raise the epoch": (
        lambda history: history.changes.__setitem__(8, standing(1, "RUNNING", 1)),
        "epoch",
    ),
    "an epoch that falls": (lambda history: history.changes.__setitem__(13, standing(1, "SUCCEEDED", 1)), "epoch"),
    "a run that begins before its time": (
        lambda history: history.changes.__setitem__(14, replace(standing(2, "RUNNING", 1), early=True)),
        "early",
    ),
    "a run that adds itself twice to what its thread keeps": (kept("run-1", "run-1"), "state"),
    "a thread that keeps a run of another": (kept("run-3", "run-1"), "state"),
    "a thread that keeps a run that never was": (kept("run-9", "run-1"), "state"),
    "a run that does not find what the one before it has left": (lost_what_was_kept, "state"),
    "a run too many at work": (lambda history: setattr(history, "running_limit", 1), "limit"),
    "a run too many at work while another is being cancelled": (
        inserted(12, standing(4, "QUEUED", 0, "thread-4"), standing(4, "RUNNING", 1, "thread-4")),
        "limit",
    ),
    "a run that begins before the one before it in its thread is over": (
        inserted(7, standing(2, "RUNNING", 1), standing(2, "QUEUED", 1)),
        "order",
    ),
    "a step of the journal by an old attempt": (inserted(11, Written("journal", "run-1", "4", 1)), "old epoch"),
    "a step of the journal by an old attempt before the later one has written": (
        inserted(9, Written("journal", "run-1", "4", 1)),
        "old epoch",
    ),
    "a step of the journal after the end": (inserted(14, Written("journal", "run-1", "4", 2)), "closed"),
    "a step of the journal while the run is being cancelled": (
        inserted(12, Written("journal", "run-3", "1", 1)),
        "closed",
    ),
    "a line of the ledger by an old attempt": (inserted(11, Written("ledger", "run-1", "4", 1)), "old epoch"),
    "an event by an old attempt": (in_log(5, attempt=1), "old epoch"),
    "an end that is told twice": (told_again, "final"),
    "an end that is not told": (never_told, "final"),
    "an end that is told as another": (in_log(6, type="agent_completed"), "final"),
    "an event after the end": (told_after_its_end, "final"),
    "an event in another's log": (in_log(3, owner=EVE), "foreign"),
    "an event twice in a log": (in_log(3, event_id="event-1"), "duplicate"),
    "a hole in a log": (in_log(6, offset=8), "gap"),
    "an event that a follower missed": (lambda history: history.followed[ADA].pop(3), "stream"),
    "two events that a follower got in another order": (lambda history: history.followed[ADA].reverse(), "stream"),
    "a run of a request that was rejected": (rejected_and_begun, "rejected"),
    "a run that was to be rejected in a busy thread": (displacing("REJECT"), "busy"),
    "a run that is not told to make way": (without_cancelling("INTERRUPT"), "displaced"),
    "a run that is not told to make way for one that rolls back": (without_cancelling("ROLLBACK"), "displaced"),
    "a run that makes way and succeeds": (succeeds_all_the_same("INTERRUPT"), "displaced"),
    "a run that is rolled back and leaves itself": (
        displacing("ROLLBACK", Left(ADA, "thread-3", "run-3", ("run-3",))),
        "rollback",
    ),
    "a run that is rolled back and is left by another": (
        displacing("ROLLBACK", Left(ADA, "thread-3", "run-5", ("run-3", "run-5"))),
        "rollback",
    ),
    "an act without its user's consent": (unasked, "unasked"),
    "an act that was consented to once and done twice": (consented_and_done_twice, "twice"),
    "a step that was done twice": (lambda history: history.effects.append("run-1.a"), "twice"),
    "a step that a result holds and nobody has done": (lambda history: history.effects.remove("run-1.a"), "undone"),
}


@pytest.mark.parametrize(("plant", "kind"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_caught(plant: Callable[[RunHistory], object], kind: str) -> None:
    history = recorded()
    plant(history)
    assert kind in {fault.kind for fault in check(history)}
