"""The checks of the demo: pure functions of what both users received. Each verdict carries the figures it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carrel_cli.demo.evidence import Evidence
from carrel_cli.documents import state_name

LIFE = ("agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed")
"""The five critical events, in the order in which they come in the life of a run."""
COMPARED = ("requests", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class Verdict:
    """One check; `passed` is None when it could not be made."""

    check: str
    passed: bool | None
    figures: str


def verdicts(ada: Evidence, ben: Evidence, blocked: float | str | None) -> list[Verdict]:
    """All checks. `blocked` is the tripwire's count, a sentence when its page lacks it, None when there is no page."""
    both = ((ada, ben), (ben, ada))
    found = [verdict for me, other in both for verdict in _of_one(me, other)]
    return [*found, _facts_differ(ada, ben), _tripwire(blocked)]


def _of_one(me: Evidence, other: Evidence) -> Iterator[Verdict]:
    for check in (_succeeded, _dense, _owner, _life, _one_final, _own_listings, _own_facts):
        yield check(me)
    yield _nothing_of_the_other(me, other)
    yield _not_found(me)


def _succeeded(me: Evidence) -> Verdict:
    why = f": {me.run.error.message} [{me.run.error.reason}]" if me.run.error.reason else ""
    state = state_name(me.run)
    return Verdict(f"{me.user_id}'s run succeeded", state == "SUCCEEDED", f"{me.run.run_id} is {state}{why}")


def _dense(me: Evidence) -> Verdict:
    offsets = [event.cursor.offset for event in me.events]
    dense = bool(offsets) and offsets == list(range(1, len(offsets) + 1))
    figures = f"{len(offsets):,} events, offsets {_span(offsets)}"
    return Verdict(f"{me.user_id} received every event once, in order, none missing", dense, figures)


def _owner(me: Evidence) -> Verdict:
    own = sum((event.tenant_id, event.user_id) == (me.tenant_id, me.user_id) for event in me.events)
    figures = f"{own:,} of {len(me.events):,} events are of {me.tenant_id}/{me.user_id}"
    return Verdict(f"{me.user_id}'s events are all their own", bool(me.events) and own == len(me.events), figures)


def _life(me: Evidence) -> Verdict:
    """The first of each of the first four, then the last completion: sub-agents begin and end in between."""
    types = [event.type for event in me.events if event.run_id == me.run.run_id]
    places = [types.index(kind) for kind in LIFE[:-1] if kind in types]
    if LIFE[-1] in types:
        places.append(len(types) - 1 - types[::-1].index(LIFE[-1]))
    passed = len(places) == len(LIFE) and places == sorted(places)
    missing = [kind for kind in LIFE if kind not in types]
    figures = f"missing: {', '.join(missing)}" if missing else " → ".join(f"{place + 1}" for place in places)
    return Verdict(f"the five critical events of {me.user_id}'s run came in order", passed, f"places {figures}")


def _one_final(me: Evidence) -> Verdict:
    finals = [place for place, event in enumerate(me.events, 1) if event.final and event.run_id == me.run.run_id]
    passed = len(finals) == 1 and finals[0] == len(me.events)
    figures = f"{len(finals)} final, at place {', '.join(map(str, finals)) or 'none'} of {len(me.events):,}"
    return Verdict(f"{me.user_id}'s run ended with exactly one final event", passed, figures)


def _own_listings(me: Evidence) -> Verdict:
    """Exactly the one run, the tool calls that the events tell of, and the file with its own bytes."""
    called = Counter(event.tool_executing.tool for event in me.events if event.type == "tool_executing")
    passed = (
        [run.run_id for run in me.runs] == [me.run.run_id]
        and {call.run_id for call in me.tool_calls} == {me.run.run_id}
        and Counter(call.tool for call in me.tool_calls) == called
        and [(corpus.name, corpus.sha256) for corpus in me.corpora] == [("trace", me.trace.sha256)]
    )
    figures = f"{len(me.runs)} run, {len(me.tool_calls)} tool calls ({called.total()} in the events), {len(me.corpora)} corpus"
    return Verdict(f"{me.user_id}'s lists hold only their own", passed, figures)


def _own_facts(me: Evidence) -> Verdict:
    """The report counts the rows of this user's own file; its sums are compared where every row could be read."""
    facts = me.facts
    counted = {
        "requests": me.trace.requests,
        "input_tokens": me.trace.input_tokens,
        "output_tokens": me.trace.output_tokens,
    }
    passed = facts.get("total_rows") == counted["requests"]
    if facts.get("broken_rows") == 0:
        passed = passed and all(facts.get(name) == counted[name] for name in COMPARED)
    figures = ", ".join(f"{name} {_number(facts.get(name))} (file: {counted[name]:,})" for name in COMPARED)
    return Verdict(f"{me.user_id}'s report is of {me.user_id}'s file", passed, figures)


def _nothing_of_the_other(me: Evidence, other: Evidence) -> Verdict:
    """Searched in the raw bytes of everything that came."""
    foreign = other.own_ids - {""}
    wire = me.wire
    seen = sorted(one for one in foreign if one.encode() in wire)
    figures = f"{len(foreign):,} ids of {other.user_id} looked for in {len(wire):,} bytes, found {len(seen)}"
    if seen:
        figures += f": {', '.join(seen[:3])}"
    return Verdict(f"{me.user_id} received nothing of {other.user_id}", bool(foreign and wire) and not seen, figures)


def _not_found(me: Evidence) -> Verdict:
    """Another user's run and one that never was get the same answer."""
    answers = me.answers_about_the_other
    passed = bool(answers) and all(answer == "NOT_FOUND RUN_NOT_FOUND" for answer in answers.values())
    figures = "; ".join(f"{asked}: {answer}" for asked, answer in answers.items())
    return Verdict(f"{me.user_id} asking for the other's run is told that there is none", passed, figures)


def _facts_differ(ada: Evidence, ben: Evidence) -> Verdict:
    pairs = [(name, ada.facts.get(name), ben.facts.get(name)) for name in COMPARED]
    figures = ", ".join(f"{name} {_number(mine)} / {_number(other)}" for name, mine, other in pairs)
    check = f"the facts of {ada.user_id} and {ben.user_id} differ"
    if ada.trace.content == ben.trace.content:
        return Verdict(check, None, f"both brought the same file: {figures}")
    return Verdict(check, bool(ada.facts and ben.facts) and any(mine != other for _, mine, other in pairs), figures)


def _tripwire(blocked: float | str | None) -> Verdict:
    check = "the tripwire of event-stream has stopped nothing"
    if blocked is None:
        return Verdict(check, None, "its metrics page does not answer")
    if isinstance(blocked, str):
        return Verdict(check, False, blocked)
    return Verdict(check, blocked == 0, f"carrel_cross_user_blocked_total {blocked:,.0f}")


def _span(offsets: Sequence[int]) -> str:
    return f"{offsets[0]:,}..{offsets[-1]:,}" if offsets else "none"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else "none"
