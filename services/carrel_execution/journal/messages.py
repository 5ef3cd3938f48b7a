"""Journals, waits and what cancelled runs came to, as the protos have them."""

from __future__ import annotations

from collections.abc import Sequence

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.replay import WaitKind, WaitState
from carrel_chassis.errors import invalid
from carrel_execution.journal.repository import Step, Wait
from carrel_execution.journal.waits import Decision
from carrel_execution.runs.cancelling import Cancelled
from carrel_execution.runs.messages import run_message
from carrel_execution.wire import timestamp

_KIND_TO_PROTO = {each: run_pb2.WaitKind.Value(f"WAIT_KIND_{each}") for each in WaitKind}
_STATE_TO_PROTO = {each: run_pb2.WaitState.Value(f"WAIT_STATE_{each}") for each in WaitState}
_STATE_FROM_PROTO = {value: state for state, value in _STATE_TO_PROTO.items()}


def step_message(run_id: str, step: Step) -> run_pb2.Step:
    """A line of the journal of a run."""
    message = run_pb2.Step(
        run_id=run_id,
        step_id=step.step_id,
        kind=run_pb2.StepKind.Value(f"STEP_KIND_{step.kind}"),
        state=run_pb2.StepState.Value(f"STEP_STATE_{step.state}"),
        name=step.name,
        attempt=step.epoch,
        result_json=step.result_json,
        create_time=timestamp(step.create_time),
        finish_time=timestamp(step.finish_time),
    )
    if step.error_reason:
        message.error.CopyFrom(run_pb2.RunError(reason=step.error_reason, message=step.error_message))
    return message


def wait_message(wait: Wait) -> run_pb2.Wait:
    """What a run waits for."""
    return run_pb2.Wait(
        wait_id=wait.wait_id,
        run_id=wait.run_id,
        thread_id=wait.thread_id,
        step_id=wait.step_id,
        kind=_KIND_TO_PROTO[wait.kind],
        state=_STATE_TO_PROTO[wait.state],
        agent=wait.agent,
        prompt=wait.prompt,
        answer_schema_json=wait.answer_schema_json,
        tool=wait.tool,
        arguments_json=wait.arguments_json,
        arguments_digest=wait.arguments_digest,
        answer_json=wait.answer_json,
        create_time=timestamp(wait.create_time),
        expire_time=timestamp(wait.expire_time),
        resolve_time=timestamp(wait.resolve_time),
    )


def wait_states(values: Sequence[run_pb2.WaitState.ValueType]) -> list[WaitState]:
    """As they are used here; INVALID_ARGUMENT for a number that is none of the names."""
    for value in values:
        if value not in _STATE_FROM_PROTO:
            raise invalid("states", f"{value} is no state of a wait; name those that WaitState lists.")
    return [_STATE_FROM_PROTO[value] for value in values]


def answer_of(request: pb.ResolveWaitRequest) -> str | Decision | None:
    """The answer that a request brings; None when it brings none."""
    match request.WhichOneof("answer"):
        case "answer_json":
            return request.answer_json
        case "approval":
            return Decision(request.approval.approved, request.approval.arguments_digest)
    return None


def cancel_response(cancelled: Cancelled) -> pb.CancelRunResponse:
    """The run, and what of it has stopped and what has not."""
    response = pb.CancelRunResponse(run=run_message(cancelled.run))
    for part in cancelled.parts:
        parts = response.stopped if part.stopped else response.not_stopped
        parts.add(kind=part.kind, name=part.name, step_id=part.step_id, message=part.message)
    return response
