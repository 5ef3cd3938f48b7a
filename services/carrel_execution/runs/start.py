"""How a run begins: what may be asked for, what holds for its user, and why it is refused. It knows no clock, no wire and no database."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.ids import check_id
from carrel_execution.domain import BusyThread, OnDisconnect, Run, breaker_open, from_json
from carrel_execution.json_schema import faults

MAX_INPUT_BYTES = 256 * 1024
MAX_PRIORITY = 100
MAX_AHEAD = timedelta(days=366)
"""How far ahead a start may be asked for."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a caller asks for; checked, but for what needs a clock (`check_times`) and the agent's own schema."""

    request_id: str
    agent: str
    input_json: str
    thread_id: str = ""
    """Empty: a thread of its own."""
    busy_thread: BusyThread = BusyThread.ENQUEUE
    priority: int = 0
    earliest_start_time: datetime | None = None
    deadline: datetime | None = None
    timeout_seconds: float | None = None
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    repeats_run_id: str = ""
    """The run that this one repeats. This and the next do not come from a caller of StartRun."""
    schedule_id: str = ""
    """The schedule that starts it."""

    def __post_init__(self) -> None:
        check_id(self.request_id, "request_id")
        if self.thread_id:
            check_id(self.thread_id, "thread_id")
        if not self.agent:
            raise invalid("agent", "agent is empty; name one of those that ListAgents lists.")
        check_input(self.input_json)
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise invalid("priority", f"priority is {self.priority}; it may be -{MAX_PRIORITY} to {MAX_PRIORITY}.")
        if self.timeout_seconds is not None and not 0 < self.timeout_seconds < math.inf:
            raise invalid("timeout", f"timeout is {self.timeout_seconds:g} s; give more than none, or leave it out.")
        if self.deadline and self.earliest_start_time and self.deadline <= self.earliest_start_time:
            raise invalid("deadline", "deadline is not after earliest_start_time; the run could never begin.")

    def check_times(self, now: datetime) -> None:
        """Raises INVALID_ARGUMENT for a start that is too far ahead."""
        if self.earliest_start_time and self.earliest_start_time - now > MAX_AHEAD:
            message = f"earliest_start_time is more than {MAX_AHEAD.days} days ahead; start it later, or by a schedule."
            raise invalid("earliest_start_time", message)

    @property
    def digest(self) -> bytes:
        """Tells whether the same request_id comes with the same content."""
        parts = (
            self.agent,
            self.thread_id,
            self.input_json,
            self.busy_thread,
            self.priority,
            self.earliest_start_time or "",
            self.deadline or "",
            self.timeout_seconds or "",
            self.on_disconnect,
            self.repeats_run_id,
            self.schedule_id,
        )
        return hashlib.sha256("\0".join(f"{len(str(part))}:{part}" for part in parts).encode()).digest()


def check_input(input_json: str) -> None:
    """Raises INVALID_ARGUMENT unless it is a JSON object of at most 256 KiB."""
    if (size := len(input_json.encode())) > MAX_INPUT_BYTES:
        raise invalid("input_json", f"input_json has {size} bytes; it may have {MAX_INPUT_BYTES}.")
    try:
        value = from_json(input_json)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise invalid("input_json", 'input_json is not a JSON object; send one, for example {"text": "hello"}.')


def check_schema(agent: str, input_json: str, schema: Mapping[str, Any] | None) -> None:
    """Raises INVALID_ARGUMENT, with a field for each fault, unless the input matches what the agent declares."""
    if schema is None:
        return
    try:
        found = faults("input_json", from_json(input_json), schema)
    except ValueError as error:
        found = {"input_json": f"{agent} declares a schema that is of no use ({error}); tell its author."}
    if found:
        field, message = next(iter(found.items()))
        sentence = f"The input is not what {agent} takes: {field}: {message}"
        raise CarrelError(Kind.INVALID, "INVALID_ARGUMENT", sentence, metadata={"field": field}, fields=found)


def own_thread(run_id: str) -> str:
    """The thread of a run for which none was named. It is found from the run, and the run from it, without looking anything up."""
    return f"thread-{run_id.removeprefix('run-')}"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many runs may wait and be worked on, and what share of the turns is whose; 0 is no limit, but for `queued`."""

    queued: int
    running: int = 0
    """0: what the workers are set to."""
    tenant_queued: int = 0
    """Of all the tenant's users together, as is the next."""
    tenant_running: int = 0
    time: datetime = _EPOCH
    """Since when the tenant's hold: of two that differ, the later ones do."""
    weight: int = 1
    """How many turns the user takes in the time in which another user with weight 1 takes one."""
    tenant_weight: int = 0
    """0: its users take turns each for themselves. Otherwise they take so many turns together."""


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """What the service is set to, as far as the acceptance of a run needs it."""

    running: int = 4
    lease_seconds: float = 6.0
    disconnect_seconds: float = 10.0
    breaker_failures: int = 5
    breaker_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A worker that could begin with the run at once, and the version of the agent that it has."""

    worker: str
    agent_version: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The run that was started, now or by the same request before."""

    run: Run
    digest: bytes
    """Of the request that started it."""
    direct: bool
    """It is RUNNING already, with the worker that was offered."""
    ready: bool
    """A worker could take it now."""
    interrupted: tuple[str, ...]
    """Runs of its thread that are at work and have been asked to stop."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a run is not accepted."""

    why: str
    """`queued_runs`, `tenant_queued_runs`, `thread_busy`, `breaker_open` or `deadline_over`."""
    most: int | None = None
    """How many runs may wait."""
    blocker: str | None = None
    """The run that the thread is busy with."""
    retry_time: datetime | None = None
    """When the agent may be started again."""


def refused(refusal: Refusal, request: StartRequest, now: datetime) -> CarrelError:
    """The error for a run that was not accepted."""
    match refusal.why:
        case "thread_busy":
            return thread_busy(request.thread_id, refusal.blocker or "")
        case "deadline_over":
            return invalid("deadline", "deadline is over; give a later one, or none.")
        case "breaker_open":
            return breaker_open(request.agent, ((refusal.retry_time or now) - now).total_seconds())
    return queue_full(refusal.why, refusal.most or 0)


def thread_busy(thread_id: str, run_id: str) -> CarrelError:
    """The thread has a run that is not over, and the caller did not want to wait for it."""
    return CarrelError(
        Kind.CONFLICT,
        "THREAD_BUSY",
        f"The thread {thread_id} is busy with the run {run_id}; wait until it is over, or choose another busy_thread.",
        metadata={"thread_id": thread_id, "run_id": run_id},
    )


def queue_full(limit: str, most: int) -> CarrelError:
    """As many runs wait as may, of the user or of the tenant."""
    whose = "Your tenant has" if limit == "tenant_queued_runs" else "You have"
    return CarrelError(
        Kind.OVER_LIMIT,
        "LIMIT_EXCEEDED",
        f"{whose} {most} runs waiting, as many as may; start more when some of them are done.",
        metadata={"limit": limit, "value": str(most)},
        retry_seconds=5.0,
    )
