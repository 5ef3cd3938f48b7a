"""Runs as values: their states, how they end, what a request may hold. It knows no clock, no wire and no database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from carrel.json_text import clean as clean
from carrel.json_text import from_json as from_json
from carrel.json_text import to_json as to_json
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.ids import check_id
from carrel_chassis.pages import Page, list_name

MAX_RESULT_BYTES = 1024 * 1024
MAX_REASON_CHARACTERS = 500


class State(StrEnum):
    """Where a run stands; the names are those of the API without their prefix."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"
    DEAD = "DEAD"

    @property
    def final(self) -> bool:
        """Whether nothing changes it any more."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.DEAD})


class BusyThread(StrEnum):
    """What becomes of a run whose thread has one that is not over; the names are those of the API without their prefix."""

    ENQUEUE = "ENQUEUE"
    REJECT = "REJECT"
    INTERRUPT = "INTERRUPT"
    ROLLBACK = "ROLLBACK"


class OnDisconnect(StrEnum):
    """What becomes of a run that nobody follows any more; the names are those of the API without their prefix."""

    CONTINUE = "CONTINUE"
    CANCEL = "CANCEL"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an agent for one user, as its user sees it. Lists leave `result_json` empty."""

    run_id: str
    thread_id: str
    agent: str
    state: State
    epoch: int
    input_json: str
    result_json: str
    error_reason: str
    error_message: str
    cancel_reason: str
    create_time: datetime
    start_time: datetime | None
    finish_time: datetime | None
    priority: int = 0
    earliest_start_time: datetime | None = None
    deadline: datetime | None = None
    timeout_seconds: float | None = None
    """Of work; None: what the service allows."""
    busy_thread: BusyThread = BusyThread.ENQUEUE
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    retries: int = 0
    agent_version: str = ""
    """What the agent's class said when the run first began."""
    repeats_run_id: str = ""
    schedule_id: str = ""
    cancel_report: str = ""
    """JSON: what the parts of a cancelled run came to; "" when nothing is known."""
    wait_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """All that a worker needs of a run that it has taken."""

    tenant_id: str
    user_id: str
    run_id: str
    thread_id: str
    agent: str
    epoch: int
    input_json: str
    grant: bytes
    unsent: Sequence[bytes]
    """What is not known to be in the user's log: the `run_queued` event, what the attempts before have left; it comes before all else."""
    unsent_position: int
    """The place of the last of them in the outbox."""
    elapsed_seconds: float
    """Of work: since the run's first start, without waiting for people and back-off."""
    more: bool
    """The user has another run that could be taken now."""
    shares_places: bool
    """The tenant has limits: when this run ends, another user's may begin."""
    timeout_seconds: float | None = None
    """How long it may work; None: what the service allows."""
    deadline: datetime | None = None
    retries: int = 0
    agent_version: str = ""
    """What the agent's class said when the run first began."""

    @property
    def key(self) -> tuple[str, int]:
        """This attempt of this run."""
        return (self.run_id, self.epoch)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ends. `message` is one sentence for its user."""

    state: State
    result_json: str = ""
    reason: str = ""
    message: str = ""


def succeeded(result: Any) -> Outcome:
    """SUCCEEDED with the result; FAILED when the result is no JSON value or too large."""
    try:
        text = to_json(result)
    except ValueError:
        return Outcome(
            State.FAILED, reason="RESULT_INVALID", message="The agent returned something that is no JSON value."
        )
    if (size := len(text.encode())) > MAX_RESULT_BYTES:
        message = f"The agent's result has {size} bytes; it may have {MAX_RESULT_BYTES}."
        return Outcome(State.FAILED, reason="RESULT_TOO_LARGE", message=message)
    return Outcome(State.SUCCEEDED, result_json=text)


def failed(reason: str, message: str) -> Outcome:
    """FAILED, with what the agent said, made fit for storing."""
    return Outcome(State.FAILED, reason=clean(reason, 64) or "AGENT_FAILED", message=clean(message, 2000))


def died(cause: str) -> Outcome:
    """DEAD: the agent, or what it ran in, is gone."""
    return Outcome(State.DEAD, reason="AGENT_DIED", message=clean(cause, 2000))


def cancelled(reason: str) -> Outcome:
    """CANCELLED; the reason is the user's own."""
    return Outcome(State.CANCELLED, reason="CANCELLED", message=reason)


def timed_out(seconds: float) -> Outcome:
    """TIMED_OUT after so many seconds."""
    message = f"The run was not done within {seconds:g} s; ask for less, or in parts."
    return Outcome(State.TIMED_OUT, reason="RUN_TIMED_OUT", message=message)


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A page of a list of runs, newest first; checked."""

    states: tuple[State, ...]
    thread_id: str
    page: Page

    @classmethod
    def checked(cls, page_size: int, page_token: str, states: Sequence[State], thread_id: str) -> ListRequest:
        """Raises INVALID_ARGUMENT for a wrong size or id, and CURSOR_INVALID for a token of another list."""
        if thread_id:
            check_id(thread_id, "thread_id")
        wanted = tuple(sorted(set(states)))
        of = list_name("runs", thread_id, *wanted)
        return cls(wanted, thread_id, Page.newest_first(of, page_size, page_token))

    def token_after(self, run: Run) -> str:
        """The token of the page after this run."""
        return self.page.token_after(run.create_time, run.run_id)


def run_not_found(run_id: str) -> CarrelError:
    """The run is absent or another user's: the same answer."""
    return CarrelError(
        Kind.NOT_FOUND,
        "RUN_NOT_FOUND",
        f"You have no run {run_id}; list your runs to see which you have.",
        metadata={"run_id": run_id},
    )


def agent_not_found(agent: str, existing: Sequence[str]) -> CarrelError:
    """No such agent; the message names those that exist."""
    shown = clean(agent, 128)
    return CarrelError(
        Kind.NOT_FOUND,
        "AGENT_NOT_FOUND",
        f"There is no agent {shown}; choose one of {', '.join(existing)}.",
        metadata={"agent": shown, "agents": ",".join(existing)},
    )


def request_id_reused(request_id: str) -> CarrelError:
    """The request_id came before with other content."""
    return CarrelError(
        Kind.RACED,
        "REQUEST_ID_REUSED",
        f"The request_id {request_id} has started another run already; take a new one for a new run.",
        metadata={"request_id": request_id},
    )


def breaker_open(agent: str, seconds: float) -> CarrelError:
    """The agent has died or crashed too often in a row for this user; it may be tried again after so many seconds."""
    return CarrelError(
        Kind.UNAVAILABLE,
        "AGENT_BREAKER_OPEN",
        f"{agent} has failed too often in a row for you; try again in {seconds:.0f} s, and tell its author if it stays so.",
        metadata={"agent": agent},
        retry_seconds=max(1.0, seconds),
    )
