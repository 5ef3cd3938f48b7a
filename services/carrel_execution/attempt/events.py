"""The events of a run, each with an id that follows from its place in the run: a run that is repeated writes none twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from carrel.api.events.v1 import event_pb2 as pb
from carrel.replay import Answered, Ask, WaitKind, WaitState
from carrel_execution.domain import Outcome, State, clean

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


def asked(run_id: str, now: float, ask: Ask) -> pb.Event:
    """The run asks its user for something; however often it does so at one place, it is one event."""
    payload: pb.ApprovalRequested | pb.InputRequested
    if ask.kind is WaitKind.APPROVAL:
        shown = tool_executing("", ask.tool, ask.arguments_json).arguments_json
        payload = pb.ApprovalRequested(
            approval_id=ask.wait_id,
            tool=ask.tool,
            arguments_digest=ask.arguments_digest,
            arguments_json=shown,
            prompt=ask.prompt,
        )
    else:
        payload = pb.InputRequested(wait_id=ask.wait_id, prompt=ask.prompt, answer_schema_json=ask.answer_schema_json)
    payload.expire_time.FromMicroseconds(int(ask.expire_time * 1e6))
    return event(f"{run_id}.{ask.step_id}.asked", TYPES[payload.__class__], ask.agent, now, payload)


def answered(run_id: str, agent: str, now: float, wait: Answered) -> pb.Event:
    """A wait is over. Who answers sends it, and the attempt that goes on; it has one id."""
    expired = wait.state is WaitState.EXPIRED
    payload: pb.ApprovalResolved | pb.InputReceived
    if wait.kind is WaitKind.APPROVAL:
        approved = wait.state is WaitState.RESOLVED
        payload = pb.ApprovalResolved(approval_id=wait.wait_id, approved=approved, expired=expired)
    else:
        payload = pb.InputReceived(wait_id=wait.wait_id, expired=expired)
    return event(f"{run_id}.{wait.step_id}.answered", TYPES[payload.__class__], agent, now, payload)


def retried(run_id: str, agent: str, now: float, outcome: Outcome, retry: int, pause_seconds: float) -> pb.Event:
    """The run has failed and begins again; 1 is the first retry."""
    payload = pb.RunRetried(reason=outcome.reason, message=clean(outcome.message, 2000), retry=retry)
    payload.earliest_start_time.FromMicroseconds(int((now + pause_seconds) * 1e6))
    return event(f"{run_id}.retry{retry}", "run_retried", agent, now, payload)


TYPES: Mapping[type, str] = {
    pb.AgentStarted: "agent_started",
    pb.AgentThinking: "agent_thinking",
    pb.ToolExecuting: "tool_executing",
    pb.ToolCompleted: "tool_completed",
    pb.AgentCompleted: "agent_completed",
    pb.AgentFailed: "agent_failed",
    pb.ProgressUpdate: "progress_update",
    pb.PartialResult: "partial_result",
    pb.Custom: "custom",
    pb.ApprovalRequested: "approval_requested",
    pb.ApprovalResolved: "approval_resolved",
    pb.InputRequested: "input_requested",
    pb.InputReceived: "input_received",
}
"""The type of an event by its payload."""


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
