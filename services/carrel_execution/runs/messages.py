"""Runs as the protos have them, and what the protos ask for as runs have it."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.agent import Agent
from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel_chassis.errors import invalid
from carrel_execution.domain import OnDisconnect, Run, State, to_json
from carrel_execution.runs.start import StartRequest
from carrel_execution.wire import busy_thread_from_message, busy_thread_to_message, duration, timestamp

_STATE_TO_PROTO = {state: run_pb2.RunState.Value(f"RUN_STATE_{state}") for state in State}
_STATE_FROM_PROTO = {value: state for state, value in _STATE_TO_PROTO.items()}
_DISCONNECT_TO_PROTO = {each: run_pb2.OnDisconnect.Value(f"ON_DISCONNECT_{each}") for each in OnDisconnect}
_DISCONNECT_FROM_PROTO = {value: each for each, value in _DISCONNECT_TO_PROTO.items()} | {
    run_pb2.ON_DISCONNECT_UNSPECIFIED: OnDisconnect.CONTINUE
}


def start_request(request: pb.StartRunRequest) -> StartRequest:
    """What is asked for; INVALID_ARGUMENT where it cannot be."""
    on_disconnect = _DISCONNECT_FROM_PROTO.get(request.on_disconnect)
    if on_disconnect is None:
        raise invalid("on_disconnect", f"{request.on_disconnect} is none of those that OnDisconnect lists; name one.")
    return StartRequest(
        request_id=request.request_id,
        agent=request.agent,
        input_json=request.input_json,
        thread_id=request.thread_id,
        busy_thread=busy_thread_from_message(request.busy_thread),
        priority=request.priority,
        earliest_start_time=_moment(request, "earliest_start_time", request.earliest_start_time),
        deadline=_moment(request, "deadline", request.deadline),
        timeout_seconds=request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else None,
        on_disconnect=on_disconnect,
    )


def _moment(request: pb.StartRunRequest, field: str, stamp: Timestamp) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]  # the names are literals to the stubs
        return None
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise invalid(field, f"{field} is no time between the years 1 and 9999.") from None


def state_from_message(value: run_pb2.RunState.ValueType) -> State:
    """As it is used here; INVALID_ARGUMENT for a number that is none of the names."""
    state = _STATE_FROM_PROTO.get(value)
    if state is None:
        raise invalid("states", f"{value} is no state of a run; name those that RunState lists.")
    return state


def run_message(run: Run) -> run_pb2.Run:
    """As the protos have it."""
    message = run_pb2.Run(
        run_id=run.run_id,
        thread_id=run.thread_id,
        agent=run.agent,
        state=_STATE_TO_PROTO[run.state],
        attempt=run.epoch,
        input_json=run.input_json,
        result_json=run.result_json,
        create_time=timestamp(run.create_time),
        start_time=timestamp(run.start_time),
        finish_time=timestamp(run.finish_time),
        priority=run.priority,
        earliest_start_time=timestamp(run.earliest_start_time),
        deadline=timestamp(run.deadline),
        timeout=None if run.timeout_seconds is None else duration(run.timeout_seconds),
        busy_thread=busy_thread_to_message(run.busy_thread),
        on_disconnect=_DISCONNECT_TO_PROTO[run.on_disconnect],
        retries=run.retries,
        agent_version=run.agent_version,
        repeats_run_id=run.repeats_run_id,
        schedule_id=run.schedule_id,
        wait_ids=run.wait_ids,
    )
    if run.error_reason:
        message.error.CopyFrom(run_pb2.RunError(reason=run.error_reason, message=run.error_message))
    return message


def agent_message(agent_class: type[Agent], isolated: bool) -> run_pb2.Agent:
    """An agent that can be run; `isolated` says whether it is, here and now, in processes of its own."""
    schema = agent_class.input_schema
    return run_pb2.Agent(
        name=agent_class.name,
        description=agent_class.description,
        input_schema_json="" if schema is None else to_json(dict(schema)),
        version=agent_class.version,
        isolation=run_pb2.AGENT_ISOLATION_PROCESS if isolated else run_pb2.AGENT_ISOLATION_LOOP,
    )
