"""Tool calls and corpora as values, and what follows from what is recorded of them. It knows no clock, no wire and no database."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, NoReturn

from carrel_chassis.errors import CarrelError, Kind, invalid

MAX_JSON_BYTES = 1024 * 1024
MAX_SENTENCE = 500
"""Characters of a sentence that travels with a refused call: gRPC carries it in metadata, which must stay small."""

_STEP = re.compile(r"[!-~]{1,256}", re.ASCII).fullmatch
_TOOL = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII).fullmatch
_TOOL_CALL = re.compile(r"[!-~]{1,512}", re.ASCII).fullmatch

CANCELLED = "TOOL_CANCELLED"
"""The reason, in the ledger, of a call that its user has cancelled."""


class Outcome(Enum):
    """What became of a tool call."""

    INTENDED = "INTENDED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    DENIED = "DENIED"
    REPEATED = "REPEATED"
    """No call of its own: a later attempt was allowed to take over an intent that had died."""


class Repeat(Enum):
    """What may be done about an intent without a result."""

    IDEMPOTENT = "run it again"
    AT_MOST_ONCE = "nothing: whether the effect happened is unknown"
    VERIFY = "ask the tool whether the effect happened, and run it if not"


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a tool at its place in a run."""

    run_id: str
    step_id: str
    attempt: int
    tool: str
    arguments_sha256: str
    repeat: Repeat
    rule: str
    """By which rule of the policy it was decided, and of which version."""
    policy_version: str
    approval_id: str = ""
    """The consent that came with it."""

    @property
    def tool_call_id(self) -> str:
        """The call's name by its place in the run, as the events of the run name it: a reader can join the two."""
        return f"{self.run_id}.{self.step_id}"

    @property
    def idempotent(self) -> bool:
        """Whether running it twice does no harm."""
        return self.repeat is Repeat.IDEMPOTENT

    @property
    def needs_intent(self) -> bool:
        """Whether the ledger must know of it before it runs. An intent buys nothing where running again does no harm: then the result
        is all that is written. A later attempt looks first, for it may have been done; a consent is spent before it is used."""
        return not self.idempotent or self.attempt > 1 or bool(self.approval_id)


@dataclass(frozen=True, slots=True)
class Ending:
    """What a step came to: a result, or why there is none."""

    outcome: Outcome
    result_json: str | None = None
    error_reason: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a tool has come, as it says itself; 0 for what it does not know."""

    message: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Begun:
    """What the ledger said when a step was begun: the intent is ours to carry out, or the line that was there already."""

    tool_call_id: str
    ours: bool
    newest_attempt: int
    """Of the run, in any of its steps."""
    tool: str = ""
    arguments_sha256: str = ""
    ending: Ending = Ending(Outcome.INTENDED)
    taken_over: bool = False
    """The intent was that of a call which died."""
    consent_used: bool = False
    """Nothing was written: another step has used the consent in the same moment."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A line of the ledger."""

    tool_call_id: str
    run_id: str
    step_id: str
    tool: str
    outcome: Outcome
    error_reason: str
    error_message: str
    create_time: datetime
    finish_time: datetime | None


@dataclass(frozen=True, slots=True)
class Corpus:
    """A file of a user, as the table knows it."""

    corpus_id: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    """Of the columns, as SQL names them."""
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way, of which so much is kept."""

    upload_id: str
    corpus_id: str
    name: str
    media_type: str
    received_bytes: int = 0


def replay(begun: Begun, step: Step) -> str:
    """The result that the ledger holds for a step that was begun before; raises what the step came to, or why it cannot go on."""
    if begun.newest_attempt > step.attempt:
        raise stale_attempt(step)
    if (begun.tool, begun.arguments_sha256) != (step.tool, step.arguments_sha256):
        raise CarrelError(
            Kind.RACED,
            "STEP_REUSED",
            f"The step {step.step_id} came before with another tool or other arguments; give each call a step of its own.",
            metadata={"step_id": step.step_id, "tool": begun.tool},
        )
    try:
        return result_of(begun.ending, step)
    except CarrelError as error:
        if begun.ending.outcome is not Outcome.INTENDED:
            error.metadata["replayed"] = "true"
        raise


def result_of(ending: Ending, step: Step) -> str:
    """The result of an ending that has one; raises what the caller is told otherwise."""
    match ending.outcome:
        case Outcome.SUCCEEDED:
            return ending.result_json or "null"
        case Outcome.FAILED:
            raise tool_failed(ending.error_reason, ending.error_message)
        case Outcome.UNKNOWN:
            raise outcome_unknown(step)
        case _:
            raise still_running(step)


def stale_attempt(step: Step) -> CarrelError:
    """A later attempt of the run is at work."""
    return CarrelError(
        Kind.RACED,
        "STALE_ATTEMPT",
        f"Attempt {step.attempt} of the run has been replaced by a later one; stop.",
        metadata={"attempt": str(step.attempt)},
    )


def still_running(step: Step) -> CarrelError:
    """The same step is under way."""
    return CarrelError(
        Kind.RACED,
        "UNAVAILABLE",
        f"The step {step.step_id} is being executed now; ask again when it is done.",
        metadata={"step_id": step.step_id},
        retry_seconds=1.0,
    )


def outcome_unknown(step: Step) -> CarrelError:
    """The effect may have happened or not."""
    return CarrelError(
        Kind.CONFLICT,
        "OUTCOME_UNKNOWN",
        f"An earlier call of {step.tool} in this step ended half-way; look whether its effect happened, then use a new step.",
        metadata={"tool": step.tool, "step_id": step.step_id},
    )


def tool_failed(reason: str, message: str) -> CarrelError:
    """The tool's own failure, in its own words."""
    return CarrelError(Kind.CONFLICT, "TOOL_FAILED", message, metadata={"tool_reason": reason})


def tool_not_found(name: str) -> CarrelError:
    """The one answer for a tool that does not exist and for one that does not exist for the caller."""
    shown = name if is_tool_name(name) else "of this name"
    return CarrelError(Kind.NOT_FOUND, "TOOL_NOT_FOUND", f"There is no tool {shown}; ListTools names those there are.")


def tool_call_denied(name: str) -> CarrelError:
    """The tool exists for the caller, but not for these arguments."""
    return CarrelError(
        Kind.DENIED,
        "TOOL_CALL_DENIED",
        f"Your tenant does not allow {name} to be called with these arguments; ask its administrator.",
        metadata={"tool": name},
    )


def tool_call_not_found() -> CarrelError:
    """The one answer for a call that never was, one of another user, and one that has left no trace."""
    return CarrelError(
        Kind.NOT_FOUND,
        "TOOL_CALL_NOT_FOUND",
        "You have no tool call of this id, neither in the ledger nor under way; the events of your runs name those there are.",
    )


def corpus_not_found(name: str) -> CarrelError:
    """There is no such corpus of this user."""
    return CarrelError(
        Kind.NOT_FOUND,
        "CORPUS_NOT_FOUND",
        f"You have no corpus {name[:128]}; list your corpora to see which you have.",
        metadata={"name": name[:128]},
    )


def is_tool_name(name: str) -> bool:
    """Whether a tool could have this name."""
    return _TOOL(name) is not None


def check_step_id(step_id: str) -> str:
    """The id as it is; raises INVALID_ID. A place in a run may well be called "1": placeholders are no matter here."""
    if _STEP(step_id) is None:
        raise invalid("step_id", "step_id must have 1 to 256 printable ASCII characters and no blanks.", "INVALID_ID")
    return step_id


def check_tool_call_id(tool_call_id: str) -> str:
    """The id as it is; raises INVALID_ID."""
    if _TOOL_CALL(tool_call_id) is None:
        message = "tool_call_id must have 1 to 512 printable ASCII characters and no blanks."
        raise invalid("tool_call_id", message, "INVALID_ID")
    return tool_call_id


def read_arguments(arguments_json: str) -> dict[str, Any]:
    """The arguments object; raises INVALID_ARGUMENT when the text is none or is too long."""
    if len(arguments_json.encode()) > MAX_JSON_BYTES:
        raise invalid(
            "arguments_json", f"arguments_json has more than {MAX_JSON_BYTES} bytes; pass large data as a corpus."
        )
    try:
        arguments = json.loads(arguments_json, parse_constant=_not_json)
        canonical(arguments).encode()
    except (ValueError, RecursionError):
        raise invalid("arguments_json", "arguments_json is not JSON; give a JSON object.") from None
    if not isinstance(arguments, dict):
        raise invalid("arguments_json", "arguments_json is not an object; give the arguments by name.")
    return arguments


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)


def canonical(value: Any) -> str:
    """One text for equal JSON values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: Any) -> str:
    """The digest of a JSON value, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def sentence(text: str) -> str:
    """Text as it may be stored and sent: without what PostgreSQL or UTF-8 cannot hold, and not too long."""
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return clean if len(clean) <= MAX_SENTENCE else clean[: MAX_SENTENCE - 1] + "…"
