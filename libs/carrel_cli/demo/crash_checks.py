"""The checks of the crash demo: pure functions of what was seen from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from carrel.api.events.v1.event_pb2 import Event
from carrel.api.runs.v1.run_pb2 import Run
from carrel.api.tools.v1.tool_pb2 import ToolCall, ToolOutcome
from carrel_cli.demo.checks import Verdict
from carrel_cli.documents import parsed, state_name


@dataclass(frozen=True)
class CrashEvidence:
    """What came over the wire, what the tool did, and which process was killed when."""

    run: Run
    events: Sequence[Event]
    tool_calls: Sequence[ToolCall]
    expected: int
    """How many payments were asked for."""
    payments: Sequence[str]
    """Those that were made, as the file has them."""
    payments_at_kill: int
    killed: int
    """The process that worked on the run."""
    successor: int | None
    """The process in its place."""


def verdicts(seen: CrashEvidence) -> Iterator[Verdict]:
    """All checks."""
    yield _killed(seen)
    yield _succeeded(seen)
    yield _once(seen)
    yield _told_once(seen)
    yield _ledger(seen)


def _killed(seen: CrashEvidence) -> Verdict:
    passed = 0 < seen.payments_at_kill < seen.expected and seen.successor not in (None, seen.killed)
    figures = (
        f"process {seen.killed} after {seen.payments_at_kill} of {seen.expected} payments; now {seen.successor} serves"
    )
    return Verdict("the worker was killed in the middle of the run", passed, figures)


def _succeeded(seen: CrashEvidence) -> Verdict:
    result = parsed(seen.run.result_json)
    paid = result.get("paid") if isinstance(result, dict) else None
    passed = paid == list(range(1, seen.expected + 1)) and seen.run.attempt >= 2
    figures = f"{seen.run.run_id} is {state_name(seen.run)} in attempt {seen.run.attempt}, paid {paid}"
    return Verdict("the run went on elsewhere and has its whole result", passed, figures)


def _once(seen: CrashEvidence) -> Verdict:
    passed = list(seen.payments) == [str(number) for number in range(1, seen.expected + 1)]
    return Verdict("each payment was made once", passed, f"the book has {', '.join(seen.payments) or 'nothing'}")


def _told_once(seen: CrashEvidence) -> Verdict:
    told = Counter(event.type for event in seen.events)
    offsets = [event.cursor.offset for event in seen.events]
    calls = (told["tool_executing"], told["tool_completed"])
    finals = [event.final for event in seen.events]
    passed = (
        calls == (seen.expected, seen.expected)
        and offsets == list(range(1, len(offsets) + 1))
        and finals == [False] * (len(finals) - 1) + [True]
    )
    figures = f"{len(offsets)} events without a gap, {calls[0]} calls begun and {calls[1]} ended, {sum(finals)} final"
    return Verdict("its user was told everything once, in order", passed, figures)


def _ledger(seen: CrashEvidence) -> Verdict:
    succeeded = sum(call.outcome == ToolOutcome.TOOL_OUTCOME_SUCCEEDED for call in seen.tool_calls)
    passed = succeeded == len(seen.tool_calls) == seen.expected
    return Verdict("the ledger has each call once", passed, f"{succeeded} of {len(seen.tool_calls)} calls succeeded")
