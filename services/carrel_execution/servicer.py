"""The RPCs of runs: proto in, proto out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.errors import invalid
from carrel_chassis.rpc.call import caller, current_call
from carrel_execution.domain import ListRequest, Run, StartRequest, State
from carrel_execution.operations import Operations

_TO_PROTO = {state: run_pb2.RunState.Value(f"RUN_STATE_{state}") for state in State}
_FROM_PROTO = {value: state for state, value in _TO_PROTO.items()}


class RunServicer(rpc.RunServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.StartRunResponse:
        user, call = caller(), current_call()
        wanted = StartRequest(request.request_id, request.agent, request.input_json, request.thread_id)
        run = await self._operations.start_run(user, call.call_id, call.signed_context, wanted)
        return pb.StartRunResponse(run=_run(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        run = await self._operations.get_run(caller(), current_call().call_id, request.run_id)
        return pb.GetRunResponse(run=_run(run))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        states = [_state(value) for value in request.states]
        page = ListRequest.checked(request.page_size, request.page_token, states, request.thread_id)
        runs, token = await self._operations.list_runs(caller(), current_call().call_id, page)
        return pb.ListRunsResponse(runs=[_run(run) for run in runs], next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        call_id = current_call().call_id
        run = await self._operations.cancel_run(caller(), call_id, request.run_id, request.reason)
        return pb.CancelRunResponse(run=_run(run))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        classes = self._operations.list_agents()
        return pb.ListAgentsResponse(
            agents=[run_pb2.Agent(name=each.name, description=each.description) for each in classes]
        )

    async def RepeatRun(self, request: pb.RepeatRunRequest, context: Any) -> pb.RepeatRunResponse:
        raise NotImplementedError

    async def FollowRun(self, request: pb.FollowRunRequest, context: Any) -> pb.FollowRunResponse:
        raise NotImplementedError

    async def ListSteps(self, request: pb.ListStepsRequest, context: Any) -> pb.ListStepsResponse:
        raise NotImplementedError

    async def ListWaits(self, request: pb.ListWaitsRequest, context: Any) -> pb.ListWaitsResponse:
        raise NotImplementedError

    async def ResolveWait(self, request: pb.ResolveWaitRequest, context: Any) -> pb.ResolveWaitResponse:
        raise NotImplementedError

    async def GetRunStatistics(self, request: pb.GetRunStatisticsRequest, context: Any) -> pb.GetRunStatisticsResponse:
        raise NotImplementedError

    async def GetOverallRunStatistics(
        self, request: pb.GetOverallRunStatisticsRequest, context: Any
    ) -> pb.GetOverallRunStatisticsResponse:
        raise NotImplementedError


def _state(value: run_pb2.RunState.ValueType) -> State:
    state = _FROM_PROTO.get(value)
    if state is None:
        raise invalid("states", f"{value} is no state of a run; name those that RunState lists.")
    return state


def _run(run: Run) -> run_pb2.Run:
    message = run_pb2.Run(
        run_id=run.run_id,
        thread_id=run.thread_id,
        agent=run.agent,
        state=_TO_PROTO[run.state],
        attempt=run.epoch,
        input_json=run.input_json,
        result_json=run.result_json,
        create_time=_time(run.create_time),
        start_time=_time(run.start_time),
        finish_time=_time(run.finish_time),
    )
    if run.error_reason:
        message.error.CopyFrom(run_pb2.RunError(reason=run.error_reason, message=run.error_message))
    return message


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
