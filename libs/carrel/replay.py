"""The journal of a run as values: what its steps came to, and what a later attempt makes of that. It knows no clock, wire or database:
agent-execution and the test kit go by the same rules.

A step is found by its place in the run. In a retry of the run, what had failed is done again under a key of its own, `<place>~<retry>`;
everything else is what it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from carrel.agent_errors import JSON, AgentDied, AgentError, OutcomeUnknown, ToolError
from carrel.json_text import to_json

MAX_RESULT_BYTES = 1024 * 1024
MAX_STEPS = 10_000
MAX_BYTES = 64 * 1024 * 1024
"""Of the results of all steps of a run together: a later attempt holds them in memory."""


class StepKind(StrEnum):
    """What a step is; the names are those of the API without their prefix. Calls of tools are in the ledger of the tools."""

    MODEL = "MODEL"
    AGENT = "AGENT"
    LOCAL = "LOCAL"


class StepState(StrEnum):
    """What became of a step."""

    INTENDED = "INTENDED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A line of the journal. `step_id` is its key."""

    step_id: str
    kind: StepKind
    name: str
    input_digest: str
    state: StepState
    result_json: str = ""
    error_kind: str = ""
    """See `error_kind`."""
    error_reason: str = ""
    error_message: str = ""
    retry: int = 0
    begin_time: float = 0.0
    """Seconds since the epoch, by the clock of the process that writes it."""


_ERRORS: Mapping[str, type[AgentError]] = {"AGENT": AgentError, "TOOL": ToolError, "UNKNOWN": OutcomeUnknown}
_RETRYABLE, _DIED = "RETRYABLE", "DIED"


def error_kind(error: AgentError) -> str:
    """What a journal keeps of the class of an error: a later attempt must be able to catch what this one could."""
    if isinstance(error, AgentDied):
        return _DIED
    if error.retryable:
        return _RETRYABLE
    return next((kind for kind, each in _ERRORS.items() if kind != "AGENT" and isinstance(error, each)), "AGENT")


def error_of(record: StepRecord) -> AgentError:
    """The error that a failed step raises again."""
    if record.error_kind == _DIED:
        return AgentDied(record.error_message)
    if record.error_kind == _RETRYABLE:
        return AgentError(record.error_reason, record.error_message, retryable=True)
    return _ERRORS[record.error_kind](record.error_reason, record.error_message)


class WaitKind(StrEnum):
    """What a run waits for."""

    INPUT = "INPUT"
    APPROVAL = "APPROVAL"


class WaitState(StrEnum):
    """What became of a wait."""

    PENDING = "PENDING"
    RESOLVED = "RESOLVED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a run asks its user, at one of its steps. `expire_time` is in seconds since the epoch."""

    wait_id: str
    step_id: str
    kind: WaitKind
    agent: str
    prompt: str
    input_digest: str
    expire_time: float
    answer_schema_json: str = ""
    tool: str = ""
    arguments_json: str = ""
    arguments_digest: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """A wait as a later attempt finds it. Times are seconds since the epoch; `resolve_time` is 0 while it is PENDING."""

    wait_id: str
    step_id: str
    kind: WaitKind
    state: WaitState
    input_digest: str
    tool: str
    arguments_digest: str
    answer_json: str
    resolve_time: float
    expire_time: float


def unknown(step: StepRecord) -> StepRecord:
    """The line of a step that was begun, must not be repeated, and whose worker is gone."""
    return replace(step, state=StepState.UNKNOWN)


def result_json(what: str, value: Any) -> str:
    """A result as the journal keeps it; AgentError when it is no JSON value or has more than 1 MiB. `what` has given it."""
    try:
        text = to_json(value)
    except ValueError:
        raise AgentError("RESULT_INVALID", f"{what} returned something that is no JSON value.") from None
    if (size := len(text.encode())) > MAX_RESULT_BYTES:
        raise AgentError("RESULT_TOO_LARGE", f"{what} returned {size} bytes; it may return {MAX_RESULT_BYTES}.")
    return text


class Mismatch(Exception):
    """The agent asks for another step than the journal has at this place; the message says which."""


def digest(*parts: str) -> str:
    """Tells whether two steps were asked the same, in hexadecimal."""
    return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()


def wait_id(run_id: str, step_id: str) -> str:
    """The id of a wait follows from its place: however often an attempt asks, it is one wait."""
    return f"wait-{digest(run_id, step_id)[:32]}"


class Journal:
    """What the attempts before this one have left; empty for the first."""

    def __init__(self, steps: Iterable[StepRecord] = (), waits: Iterable[Answered] = (), *, retry: int = 0) -> None:
        self.retry = retry
        """How often the run has failed and begun again."""
        self._steps = {step.step_id: step for step in steps}
        self._waits = {wait.step_id: wait for wait in waits}

    def keys(self, place: str) -> Iterator[str]:
        """The keys that a step at this place may have, in the order in which they were taken."""
        yield place
        for retry in range(1, self.retry + 1):
            yield f"{place}~{retry}"

    def find(self, place: str, kind: StepKind, name: str, input_digest: str) -> tuple[str, StepRecord | None]:
        """The key of the step, and what is known of it. What had failed before this retry is to be done again; raises Mismatch."""
        key, found = place, None
        for each in self.keys(place):
            if each in self._waits:
                raise Mismatch(f"{_told(kind, name)} now and for an answer of its user before")
            record = self._steps.get(each)
            if record is not None:
                key, found = each, record
        if found is None:
            return key, None
        if (found.kind, found.name, found.input_digest) != (kind, name, input_digest):
            same = (found.kind, found.name) == (kind, name)
            before = "with another input before" if same else f"and for {_told(found.kind, found.name)} before"
            raise Mismatch(f"{_told(kind, name)} now {before}")
        if found.state is StepState.FAILED and found.retry < self.retry:
            return f"{place}~{self.retry}", None
        return key, found

    def wait(self, key: str, kind: WaitKind, input_digest: str, asked: str) -> Answered | None:
        """The wait with this key; raises Mismatch. `asked` says what the agent asks for, as in "the tool echo"."""
        if (record := self._steps.get(key)) is not None:
            raise Mismatch(f"{asked} now and for {_told(record.kind, record.name)} before")
        found = self._waits.get(key)
        if found is not None and (found.kind, found.input_digest) != (kind, input_digest):
            raise Mismatch(f"{asked} now and for something else before")
        return found


_NOUNS = {StepKind.MODEL: "the model", StepKind.AGENT: "the agent", StepKind.LOCAL: "the step"}


def _told(kind: StepKind, name: str) -> str:
    return f"{_NOUNS[kind]} {name}"


_PASSING = frozenset(("timestamp", "run_id", "conversation_id"))
"""What the library notes of its own moment: an agent that asks the same again has other values there."""


def lasting(value: JSON) -> JSON:
    """A request to a model without what differs from attempt to attempt."""
    match value:
        case dict():
            return {name: lasting(each) for name, each in value.items() if name not in _PASSING}
        case list() | tuple():
            return [lasting(each) for each in value]
    return value
