"""The RPCs of runs: proto in, proto out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.rpc.call import caller, current_call
from carrel_execution.domain import ListRequest
from carrel_execution.inspection import Inspection
from carrel_execution.journal.messages import answer_of, cancel_response, step_message, wait_message, wait_states
from carrel_execution.journal.waits import WaitOperations
from carrel_execution.models.usage import usage_message
from carrel_execution.runs.cancelling import Cancelling
from carrel_execution.runs.follow import Followers
from carrel_execution.runs.messages import agent_message, run_message, start_request, state_from_message
from carrel_execution.runs.operations import Operations
from carrel_execution.runs.repeat import repeat_run
from carrel_execution.runs.statistics import StatisticsReader
from carrel_execution.wire import duration, statistics_message


class RunServicer(rpc.RunServiceServicer):
    """See the proto for what each method promises."""

    def __init__(
        self,
        operations: Operations,
        cancelling: Cancelling,
        waits: WaitOperations,
        followers: Followers,
        statistics: StatisticsReader,
        is_isolated: Callable[[str], bool],
        inspection: Inspection,
    ) -> None:
        """`is_isolated` says of an agent whether it runs in processes of its own."""
        self._operations = operations
        self._cancelling = cancelling
        self._waits = waits
        self._followers = followers
        self._statistics = statistics
        self._is_isolated = is_isolated
        self._inspection = inspection

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.StartRunResponse:
        user, call = caller(), current_call()
        run = await self._operations.start_run(user, call.call_id, call.signed_context, start_request(request))
        return pb.StartRunResponse(run=run_message(run))

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        user, call_id = caller(), current_call().call_id
        run = run_message(await self._operations.get_run(user, call_id, request.run_id))
        usage = await self._operations.model_usage(user, call_id, request.run_id)
        run.model_usage.extend(usage_message(each) for each in usage)
        return pb.GetRunResponse(run=run)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        states = [state_from_message(value) for value in request.states]
        page = ListRequest.checked(request.page_size, request.page_token, states, request.thread_id)
        runs, token = await self._operations.list_runs(caller(), current_call().call_id, page)
        return pb.ListRunsResponse(runs=[run_message(run) for run in runs], next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        seconds = request.wait.ToTimedelta().total_seconds()
        cancelled = await self._cancelling.cancel(
            caller(), current_call().call_id, request.run_id, request.reason, seconds
        )
        return cancel_response(cancelled)

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        classes = self._operations.list_agents()
        return pb.ListAgentsResponse(agents=[agent_message(each, self._is_isolated(each.name)) for each in classes])

    async def RepeatRun(self, request: pb.RepeatRunRequest, context: Any) -> pb.RepeatRunResponse:
        user, call = caller(), current_call()
        run = await repeat_run(
            self._operations, user, call.call_id, call.signed_context, request.request_id, request.run_id
        )
        return pb.RepeatRunResponse(run=run_message(run))

    async def FollowRun(self, request: pb.FollowRunRequest, context: Any) -> pb.FollowRunResponse:
        seconds = await self._followers.follow(caller(), current_call().call_id, request.run_id)
        return pb.FollowRunResponse(next=None if seconds is None else duration(seconds))

    async def ListSteps(self, request: pb.ListStepsRequest, context: Any) -> pb.ListStepsResponse:
        steps, token = await self._waits.list_steps(
            caller(), current_call().call_id, request.run_id, request.page_size, request.page_token
        )
        return pb.ListStepsResponse(steps=[step_message(request.run_id, step) for step in steps], next_page_token=token)

    async def ListWaits(self, request: pb.ListWaitsRequest, context: Any) -> pb.ListWaitsResponse:
        states = wait_states(request.states)
        waits, token = await self._waits.list_waits(
            caller(), current_call().call_id, request.run_id, states, request.page_size, request.page_token
        )
        return pb.ListWaitsResponse(waits=[wait_message(wait) for wait in waits], next_page_token=token)

    async def ResolveWait(self, request: pb.ResolveWaitRequest, context: Any) -> pb.ResolveWaitResponse:
        call_id = current_call().call_id
        wait = await self._waits.resolve_wait(caller(), call_id, request.wait_id, answer_of(request))
        return pb.ResolveWaitResponse(wait=wait_message(wait))

    async def GetRunStatistics(self, request: pb.GetRunStatisticsRequest, context: Any) -> pb.GetRunStatisticsResponse:
        user, call_id = caller(), current_call().call_id
        summaries = await self._statistics.of_user(user, call_id, request.days)
        usage = await self._statistics.models_of_user(user, call_id, request.days)
        return pb.GetRunStatisticsResponse(
            statistics=[statistics_message(each) for each in summaries],
            model_usage=[usage_message(each) for each in usage],
        )

    async def GetOverallRunStatistics(
        self, request: pb.GetOverallRunStatisticsRequest, context: Any
    ) -> pb.GetOverallRunStatisticsResponse:
        summaries = await self._statistics.overall(caller(), request.days)
        return pb.GetOverallRunStatisticsResponse(statistics=[statistics_message(each) for each in summaries])

    async def InspectWorker(self, request: pb.InspectWorkerRequest, context: Any) -> pb.InspectWorkerResponse:
        return pb.InspectWorkerResponse(worker=self._inspection.worker())
