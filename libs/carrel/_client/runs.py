"""Runs: starting, looking at, stopping and repeating them, and answering what they wait for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta

from carrel._client.base import JSON, Calls, duration, listed, new_request_id, timestamp, to_json
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.runs.v1.run_pb2 import (
    Agent,
    BusyThread,
    ModelUsage,
    OnDisconnect,
    Run,
    RunState,
    RunStatistics,
    Step,
    Wait,
    WaitState,
)


class RunCalls(Calls):
    """The user's runs."""

    async def start_run(
        self,
        agent: str,
        input: Mapping[str, JSON],
        thread_id: str = "",
        request_id: str | None = None,
        *,
        busy_thread: BusyThread.ValueType = BusyThread.BUSY_THREAD_UNSPECIFIED,
        priority: int = 0,
        earliest_start_time: datetime | None = None,
        deadline: datetime | None = None,
        timeout: timedelta | None = None,
        on_disconnect: OnDisconnect.ValueType = OnDisconnect.ON_DISCONNECT_UNSPECIFIED,
    ) -> Run:
        """Accepts a run; when this returns, it is durable. The same `request_id` again returns the same run; None makes a new one.

        `busy_thread` says what happens when the thread has a run that is not over; runs of higher `priority`, -100 to 100, begin
        before the user's others. Not begun before `earliest_start_time`, ended at the `deadline`, at work for at most `timeout`.
        """
        request = pb.StartRunRequest(
            request_id=new_request_id(request_id),
            agent=agent,
            input_json=to_json(input),
            thread_id=thread_id,
            busy_thread=busy_thread,
            priority=priority,
            earliest_start_time=timestamp(earliest_start_time),
            deadline=timestamp(deadline),
            timeout=duration(timeout),
            on_disconnect=on_disconnect,
        )
        return (await self._caller.repeat(self._stub.StartRun, request)).run

    async def get_run(self, run_id: str) -> Run:
        """A run with its input and result; NotFound when it is absent or another user's."""
        return (await self._caller.repeat(self._stub.GetRun, pb.GetRunRequest(run_id=run_id))).run

    def list_runs(
        self, *, states: Sequence[RunState.ValueType] = (), thread_id: str = "", page_size: int = 0
    ) -> AsyncGenerator[Run, None]:
        """The user's runs, newest first, without their results; pages are fetched as they are needed."""
        request = pb.ListRunsRequest(states=states, thread_id=thread_id, page_size=page_size)
        return listed(self._caller, self._stub.ListRuns, request, "runs")

    async def cancel_run(self, run_id: str, reason: str = "") -> Run:
        """Asks a run to stop and returns it as it is now; `watch_run` or `get_run` tells when it has."""
        return (await self._caller.once(self._stub.CancelRun, pb.CancelRunRequest(run_id=run_id, reason=reason))).run

    async def cancel_run_and_wait(
        self, run_id: str, reason: str = "", wait: timedelta = timedelta(seconds=10)
    ) -> pb.CancelRunResponse:
        """Asks a run to stop and waits for that, at most 30 s; the answer says what has stopped and what has not."""
        request = pb.CancelRunRequest(run_id=run_id, reason=reason, wait=duration(wait))
        return await self._caller.once(self._stub.CancelRun, request, wait.total_seconds() + 10.0)

    async def repeat_run(self, run_id: str, request_id: str | None = None) -> Run:
        """Starts a run that has ended once more, as a new run with the same agent, input and thread; Conflict when it is not over."""
        request = pb.RepeatRunRequest(request_id=new_request_id(request_id), run_id=run_id)
        return (await self._caller.repeat(self._stub.RepeatRun, request)).run

    def list_steps(self, run_id: str, *, page_size: int = 0) -> AsyncGenerator[Step, None]:
        """The journal of a run in the order of its steps; pages are fetched as they are needed."""
        request = pb.ListStepsRequest(run_id=run_id, page_size=page_size)
        return listed(self._caller, self._stub.ListSteps, request, "steps")

    def list_waits(
        self, run_id: str = "", *, states: Sequence[WaitState.ValueType] = (), page_size: int = 0
    ) -> AsyncGenerator[Wait, None]:
        """What the user's runs wait for, oldest first; of one run or of all, those that are pending unless `states` says otherwise."""
        request = pb.ListWaitsRequest(run_id=run_id, states=states, page_size=page_size)
        return listed(self._caller, self._stub.ListWaits, request, "waits")

    async def answer_wait(self, wait_id: str, answer: JSON) -> Wait:
        """Gives a run the input that it waits for; InvalidArgument when it is not what was asked for, Conflict when it is over."""
        request = pb.ResolveWaitRequest(wait_id=wait_id, answer_json=to_json(answer))
        return (await self._caller.repeat(self._stub.ResolveWait, request)).wait

    async def decide_wait(self, wait: Wait, *, approved: bool) -> Wait:
        """Says yes or no to the call of a tool, exactly as `wait` shows it: an approval of anything else is refused."""
        decision = pb.ApprovalDecision(approved=approved, arguments_digest=wait.arguments_digest)
        request = pb.ResolveWaitRequest(wait_id=wait.wait_id, approval=decision)
        return (await self._caller.repeat(self._stub.ResolveWait, request)).wait

    async def get_run_statistics(self, days: int = 0) -> list[RunStatistics]:
        """How the user's runs of the last days, 30 unless said, ended, by agent; the last entry has no name and holds all."""
        request = pb.GetRunStatisticsRequest(days=days)
        return list((await self._caller.repeat(self._stub.GetRunStatistics, request)).statistics)

    async def get_model_usage(self, days: int = 0) -> list[ModelUsage]:
        """What the user's runs of the last days, 30 unless said, have taken of language models, by model; of one run: `get_run`."""
        request = pb.GetRunStatisticsRequest(days=days)
        return list((await self._caller.repeat(self._stub.GetRunStatistics, request)).model_usage)

    async def list_agents(self) -> list[Agent]:
        """The agents that can be started, by name."""
        return list((await self._caller.repeat(self._stub.ListAgents, pb.ListAgentsRequest())).agents)
