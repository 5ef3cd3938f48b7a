"""The history checker for runs: what was accepted, what each commit left behind, what users were told, what happened in the world.

Pure, and after the fact: it knows no service, no clock and no fault that was injected. The commits come from PostgreSQL's own log, in
their order, so that "at the same time" and "before" are not guesses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.history import Fault, Owner

WORKING = frozenset({"RUNNING", "CANCELLING"})
FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "DEAD"})
TOLD_BY = {
    "SUCCEEDED": "agent_completed",
    "FAILED": "agent_failed",
    "TIMED_OUT": "agent_failed",
    "CANCELLED": "run_cancelled",
    "DEAD": "agent_died",
}
"""The type of the final event of a run that ended so."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the caller of StartRun was answered."""

    owner: Owner
    request_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request for a run that was refused because its thread was busy."""

    owner: Owner
    request_id: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as one commit left it."""

    owner: Owner
    run_id: str
    thread_id: str
    state: str
    epoch: int
    early: bool = False
    """It began before it was allowed to."""
    busy_thread: str = "ENQUEUE"
    """What it wanted to become of those before it in its thread."""
    request_id: str = ""
    reason: str = ""
    """Why it failed, if it did."""


@dataclass(frozen=True, slots=True)
class Written:
    """A line of a store in which attempts of runs write."""

    store: str
    """"journal" knows the epoch of the run itself; "ledger" knows only what it has been shown."""
    run_id: str
    step_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Left:
    """What a thread keeps, as one commit left it: the runs that have added themselves, by the run that wrote it."""

    owner: Owner
    thread_id: str
    run_id: str
    runs: tuple[str, ...]


Change = Standing | Written | Left


@dataclass(frozen=True, slots=True)
class Told:
    """An event in its owner's log."""

    owner: Owner
    offset: int
    event_id: str
    run_id: str
    type: str
    attempt: int
    final: bool


@dataclass(slots=True)
class RunHistory:
    """All that was recorded."""

    running_limit: int
    ends: frozenset[str] = FINAL
    """The states in which runs may end: of agents that never fail by themselves, FAILED is none of them."""
    accepted: list[Accepted] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    """In the order of their commits, from the first on."""
    logs: dict[Owner, list[Told]] = field(default_factory=lambda: defaultdict(list))
    """By offset."""
    followed: dict[Owner, list[str]] = field(default_factory=dict)
    """The ids of the events that came on a stream which was open from the beginning and read to the end."""
    ended: dict[str, str] = field(default_factory=dict)
    """The state of each accepted run, as its user reads it at the end."""
    effects: list[str] = field(default_factory=list)
    """What was done in the world by steps that must not be done twice, a key for each time."""
    guarded: set[str] = field(default_factory=set)
    """Of these, what needs its user's consent."""
    consented: set[str] = field(default_factory=set)
    """What users have consented to, or were about to when the line broke."""
    claimed_effects: dict[str, list[str]] = field(default_factory=dict)
    """What the results of runs say was done."""
    kept: dict[str, list[str]] = field(default_factory=dict)
    """What a run has left in its thread: the runs that have added themselves to it, itself the last. Only of those that succeeded."""


def check(history: RunHistory) -> list[Fault]:
    """Everything that is wrong."""
    return [
        *_acceptance_faults(history),
        *_transition_faults(history.changes),
        *_limit_faults(history),
        *_thread_faults(history.changes),
        *_rejection_faults(history),
        *_displacement_faults(history.changes),
        *_fence_faults(history),
        *_telling_faults(history),
        *_effect_faults(history),
        *_state_faults(history),
    ]


def _acceptance_faults(history: RunHistory) -> Iterator[Fault]:
    """No accepted run is lost, none is doubled, and each has ended as it may."""
    last = _last_standings(history.changes)
    first: dict[tuple[Owner, str], str] = {}
    for accepted in history.accepted:
        where = f"{accepted.run_id} of {accepted.owner[1]}"
        if first.setdefault((accepted.owner, accepted.request_id), accepted.run_id) != accepted.run_id:
            yield Fault("doubled", where, f"{accepted.request_id} had started another run before")
        standing = last.get(accepted.run_id)
        if standing is None or standing.owner != accepted.owner:
            yield Fault("lost", where, "it was accepted, and no commit holds it")
        elif standing.state not in FINAL:
            yield Fault("unended", where, f"it is {standing.state}")
        elif standing.state not in history.ends:
            yield Fault("failed", standing.run_id, f"{standing.state} {standing.reason}")
        elif history.ended.get(accepted.run_id) != standing.state:
            yield Fault("disagreement", where, f"{standing.state}, but read as {history.ended.get(accepted.run_id)}")


def _transition_faults(changes: Sequence[Change]) -> Iterator[Fault]:
    """What is final stays so; epochs only grow, by one with each claim and never otherwise; none begins before its time."""
    last: dict[str, Standing] = {}
    for now in _standings(changes):
        before = last.get(now.run_id)
        last[now.run_id] = now
        if before is None:
            continue
        if before.state in FINAL and now.state != before.state:
            yield Fault("revived", now.run_id, f"{before.state}, then {now.state}")
        claimed = before.state not in WORKING and now.state in WORKING
        if now.epoch != before.epoch + claimed:
            yield Fault("epoch", now.run_id, f"{before.epoch} ({before.state}), then {now.epoch} ({now.state})")
        if claimed and now.early:
            yield Fault("early", now.run_id, "it began before its time")


def _limit_faults(history: RunHistory) -> Iterator[Fault]:
    """After no commit does a user have more runs at work than the limit."""
    working: dict[Owner, set[str]] = defaultdict(set)
    for now in _standings(history.changes):
        at_work = working[now.owner]
        if now.state not in WORKING:
            at_work.discard(now.run_id)
        elif now.run_id not in at_work:
            at_work.add(now.run_id)
            if len(at_work) > history.running_limit:
                yield Fault("limit", f"runs of {now.owner[1]}", f"{len(at_work)} at work: {', '.join(sorted(at_work))}")


def _thread_faults(changes: Sequence[Change]) -> Iterator[Fault]:
    """No run begins before those that were accepted before it in its thread are over."""
    lines: dict[tuple[Owner, str], list[str]] = defaultdict(list)
    states: dict[str, str] = {}
    for now in _standings(changes):
        line = lines[now.owner, now.thread_id]
        if now.run_id not in states:
            line.append(now.run_id)
        begins = now.state in WORKING and states.get(now.run_id) not in WORKING
        states[now.run_id] = now.state
        if begins:
            for earlier in line[: line.index(now.run_id)]:
                if states[earlier] not in FINAL:
                    yield Fault("order", f"{now.thread_id} of {now.owner[1]}", f"{now.run_id} before {earlier}")


def _rejection_faults(history: RunHistory) -> Iterator[Fault]:
    """Of a request that was refused no run is ever seen; and a run that would be refused in a busy thread found it free."""
    rejected = {(each.owner, each.request_id) for each in history.rejected}
    for now, before in _first_standings(history.changes):
        if (now.owner, now.request_id) in rejected:
            yield Fault("rejected", now.run_id, f"{now.request_id} was refused, and has started it")
        if now.busy_thread == "REJECT":
            yield from (Fault("busy", now.run_id, f"{each.run_id} was {each.state}") for each in before)


def _displacement_faults(changes: Sequence[Change]) -> Iterator[Fault]:
    """What makes way in its thread for a run is cancelled; and what is rolled back leaves nothing in the state of the thread."""
    displaced: dict[str, Standing] = {}
    for now, before in _first_standings(changes):
        if now.busy_thread in ("INTERRUPT", "ROLLBACK"):
            displaced.update({each.run_id: now for each in before})
            yield from (
                Fault("displaced", each.run_id, f"it is {each.state} when {now.run_id} comes")
                for each in before
                if each.state != "CANCELLING"
            )
    for run_id, standing in _last_standings(changes).items():
        if run_id in displaced and standing.state in FINAL - {"CANCELLED"}:
            yield Fault("displaced", run_id, f"it was to make way for {displaced[run_id].run_id}, and {standing.state}")
    rolled_back = {run_id for run_id, by in displaced.items() if by.busy_thread == "ROLLBACK"}
    for left in (change for change in changes if isinstance(change, Left)):
        for run_id in rolled_back & {left.run_id, *left.runs}:
            yield Fault("rollback", run_id, f"{left.run_id} leaves {', '.join(left.runs)} in {left.thread_id}")


def _fence_faults(history: RunHistory) -> Iterator[Fault]:
    """Once a later attempt has written to a store, no older one does; and the journal takes nothing but from the attempt at work."""
    latest: dict[tuple[str, str], int] = {}
    runs: dict[str, Standing] = {}
    for change in history.changes:
        if isinstance(change, Standing):
            runs[change.run_id] = change
        if not isinstance(change, Written):
            continue
        where = f"{change.store} of {change.run_id}"
        if change.attempt < latest.get((change.store, change.run_id), 0):
            yield Fault("old epoch", where, f"step {change.step_id} of attempt {change.attempt}")
        latest[change.store, change.run_id] = max(change.attempt, latest.get((change.store, change.run_id), 0))
        run = runs.get(change.run_id)
        if change.store == "journal" and run is not None:
            if change.attempt != run.epoch:
                yield Fault("old epoch", where, f"step {change.step_id} of attempt {change.attempt}, now {run.epoch}")
            if run.state != "RUNNING":
                yield Fault("closed", where, f"step {change.step_id} while the run is {run.state}")
    for owner, log in history.logs.items():
        attempts: dict[str, int] = {}
        for told in log:
            if told.attempt < attempts.get(told.run_id, 0):
                yield Fault("old epoch", f"the log of {owner[1]}", f"{told.event_id} of attempt {told.attempt}")
            attempts[told.run_id] = max(told.attempt, attempts.get(told.run_id, 0))


def _telling_faults(history: RunHistory) -> Iterator[Fault]:
    """Each run is told of to its end, once, and its end is what it came to; whoever followed was told the same."""
    for owner, log in history.logs.items():
        where = f"the log of {owner[1]}"
        ids = [told.event_id for told in log]
        yield from (Fault("duplicate", where, event_id) for event_id, count in Counter(ids).items() if count > 1)
        if [told.offset for told in log] != list(range(1, len(log) + 1)):
            yield Fault("gap", where, "the offsets are not dense")
        if owner in history.followed and history.followed[owner] != ids:
            yield Fault("stream", where, f"{len(history.followed[owner])} events were received, {len(ids)} are there")
    by_run: dict[str, list[Told]] = defaultdict(list)
    for told in (told for log in history.logs.values() for told in log):
        by_run[told.run_id].append(told)
    for run_id, standing in _last_standings(history.changes).items():
        yield from _end_faults(standing, by_run[run_id])


def _end_faults(standing: Standing, story: Sequence[Told]) -> Iterator[Fault]:
    finals = [told for told in story if told.final]
    if standing.state not in FINAL:
        return
    if len(finals) != 1:
        yield Fault("final", standing.run_id, f"{len(finals)} final events: {', '.join(t.event_id for t in finals)}")
        return
    if finals[0].type != TOLD_BY[standing.state]:
        yield Fault("final", standing.run_id, f"{standing.state}, told as {finals[0].type}")
    if story[-1] is not finals[0]:
        yield Fault("final", standing.run_id, f"{story[-1].event_id} came after the final event")
    if foreign := [told for told in story if told.owner != standing.owner]:
        yield Fault("foreign", standing.run_id, f"{foreign[0].event_id} is in the log of {foreign[0].owner[1]}")


def _effect_faults(history: RunHistory) -> Iterator[Fault]:
    """What must not be done twice was not, what needs a consent only with one; and what a run says it has done, it has."""
    done = Counter(history.effects)
    yield from (Fault("twice", key, f"done {count} times") for key, count in done.items() if count > 1)
    yield from (Fault("unasked", key, "its user has not consented") for key in history.guarded - history.consented)
    for run_id, keys in history.claimed_effects.items():
        yield from (Fault("undone", run_id, f"{key} was not done") for key in keys if not done[key])


def _state_faults(history: RunHistory) -> Iterator[Fault]:
    """What a thread keeps is added to once by each run, in their order, and goes to no other thread or user."""
    last = _last_standings(history.changes)
    lines: dict[tuple[Owner, str], list[str]] = defaultdict(list)
    for now in _standings(history.changes):
        if (
            now.state == "SUCCEEDED"
            and now.run_id in history.kept
            and now.run_id not in lines[now.owner, now.thread_id]
        ):
            lines[now.owner, now.thread_id].append(now.run_id)
    for (owner, thread_id), line in lines.items():
        for place, run_id in enumerate(line):
            kept = history.kept[run_id]
            where = f"{thread_id} of {owner[1]}, as {run_id} left it"
            if len(set(kept)) < len(kept):
                yield Fault("state", where, "a run has added itself twice")
            if [each for each in kept if each in line] != line[: place + 1]:
                yield Fault("state", where, f"{', '.join(kept)}, after {', '.join(line[:place])}")
            if [
                each
                for each in kept
                if each not in last or last[each].thread_id != thread_id or last[each].owner != owner
            ]:
                yield Fault("state", where, f"{', '.join(kept)} are not all of this thread")


def _standings(changes: Sequence[Change]) -> Iterator[Standing]:
    return (change for change in changes if isinstance(change, Standing))


def _first_standings(changes: Sequence[Change]) -> Iterator[tuple[Standing, list[Standing]]]:
    """Each run as it was accepted, with those of its thread that were not over then."""
    live: dict[tuple[Owner, str], dict[str, Standing]] = defaultdict(dict)
    seen: set[str] = set()
    for now in _standings(changes):
        thread = live[now.owner, now.thread_id]
        if now.run_id not in seen:
            seen.add(now.run_id)
            yield now, list(thread.values())
        if now.state in FINAL:
            thread.pop(now.run_id, None)
        else:
            thread[now.run_id] = now


def _last_standings(changes: Sequence[Change]) -> Mapping[str, Standing]:
    return {standing.run_id: standing for standing in _standings(changes)}


def story(history: RunHistory, run_id: str) -> Iterator[str]:
    """All that is known of a run, for whoever has to find out how a fault came about."""
    for change in history.changes:
        if change.run_id == run_id:
            yield _told_shortly(change)
    for told in (told for log in history.logs.values() for told in log if told.run_id == run_id):
        yield f"{told.offset}: {told.event_id.removeprefix(run_id)} {told.type} of attempt {told.attempt}"


def _told_shortly(change: Change) -> str:
    match change:
        case Standing():
            return f"{change.state} {change.epoch} {change.reason}".rstrip()
        case Written():
            return f"{change.store} {change.step_id}"
        case Left():
            return f"left {', '.join(change.runs)}"
