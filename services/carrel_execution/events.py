"""The events of a run, each with an id that follows from its place in the run: a run that is repeated writes none twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from carrel.api.events.v1 import event_pb2 as pb
from carrel_execution.domain import Outcome, State

_BATCH_EVENTS = 200
_BATCH_BYTES = 1024 * 1024
_MAX_ARGUMENTS = 32 * 1024
_MAX_RESULT = 192 * 1024
"""event-stream takes events of up to 256 KiB; what it redacts may make them longer."""
_LARGEST = 2**63 - 1


def event(event_id: str, type: str, agent: str, now: float, payload: Any, *, final: bool = False) -> pb.Event:
    """An event to append; the payload's field has the name of the type. `now` is in seconds since the epoch."""
    message = pb.Event(event_id=event_id, type=type, agent=agent, final=final)
    message.create_time.FromMicroseconds(int(now * 1e6))
    getattr(message, type).CopyFrom(payload)  # sets the field for an empty payload too
    return message


def queued(run_id: str, agent: str, now: float) -> pb.Event:
    """The first event of a run."""
    return event(f"{run_id}.queued", "run_queued", agent, now, pb.RunQueued())


def final(run_id: str, agent: str, now: float, outcome: Outcome) -> pb.Event:
    """The last event of a run: its id is the same however often and by whom it is made."""
    type, payload = _ending(outcome)
    return event(f"{run_id}.final", type, agent, now, payload, final=True)


def _ending(outcome: Outcome) -> tuple[str, Any]:
    match outcome.state:
        case State.SUCCEEDED:
            # A large result is not in the log: the run has it.
            fits = len(outcome.result_json.encode()) <= _MAX_RESULT
            return "agent_completed", pb.AgentCompleted(result_json=outcome.result_json if fits else "")
        case State.CANCELLED:
            return "run_cancelled", pb.RunCancelled(reason=outcome.message)
        case State.DEAD:
            return "agent_died", pb.AgentDied(cause=outcome.message)
        case State.FAILED | State.TIMED_OUT:
            return "agent_failed", pb.AgentFailed(reason=outcome.reason, message=outcome.message)
    raise ValueError(f"{outcome.state} is no end")


def tool_executing(tool_call_id: str, tool: str, arguments_json: str) -> pb.ToolExecuting:
    """Arguments that are too long for an event are told by their size; the ledger has them."""
    if (size := len(arguments_json.encode())) > _MAX_ARGUMENTS:
        arguments_json = f'{{"omitted_bytes":{size}}}'
    return pb.ToolExecuting(tool_call_id=tool_call_id, tool=tool, arguments_json=arguments_json)


def progress(message: str, done: int, total: int) -> pb.ProgressUpdate:
    """Numbers as the wire takes them."""
    return pb.ProgressUpdate(message=message, done=_natural(done), total=_natural(total))


def _natural(number: int) -> int:
    return min(max(int(number), 0), _LARGEST)


def batches(events: Iterable[pb.Event]) -> Iterator[list[pb.Event]]:
    """The events in order, in pieces that fit into a call each."""
    batch: list[pb.Event] = []
    size = 0
    for each in events:
        size += each.ByteSize()
        if batch and (size > _BATCH_BYTES or len(batch) == _BATCH_EVENTS):
            yield batch
            batch, size = [], each.ByteSize()
        batch.append(each)
    if batch:
        yield batch
