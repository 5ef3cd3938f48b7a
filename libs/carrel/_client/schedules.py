"""Schedules: runs that begin by the clock."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from carrel._client.base import JSON, Calls, listed, new_request_id, to_json
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.runs.v1.run_pb2 import BusyThread
from carrel.api.runs.v1.schedule_pb2 import Schedule


class ScheduleCalls(Calls):
    """The user's schedules."""

    async def create_schedule(
        self,
        cron: str,
        agent: str,
        input: Mapping[str, JSON],
        *,
        time_zone: str = "",
        thread_id: str = "",
        busy_thread: BusyThread.ValueType = BusyThread.BUSY_THREAD_UNSPECIFIED,
        priority: int = 0,
        request_id: str | None = None,
    ) -> Schedule:
        """Starts a run at each time that `cron` says, five fields as "30 7 * * MON-FRI", in an IANA `time_zone`, UTC unless said."""
        request = pb.CreateScheduleRequest(
            request_id=new_request_id(request_id),
            cron=cron,
            time_zone=time_zone,
            agent=agent,
            input_json=to_json(input),
            thread_id=thread_id,
            busy_thread=busy_thread,
            priority=priority,
        )
        return (await self._caller.repeat(self._stub.CreateSchedule, request)).schedule

    async def get_schedule(self, schedule_id: str) -> Schedule:
        """A schedule; NotFound when it is absent or another user's."""
        request = pb.GetScheduleRequest(schedule_id=schedule_id)
        return (await self._caller.repeat(self._stub.GetSchedule, request)).schedule

    def list_schedules(self, *, page_size: int = 0) -> AsyncGenerator[Schedule, None]:
        """The user's schedules, newest first; pages are fetched as they are needed."""
        request = pb.ListSchedulesRequest(page_size=page_size)
        return listed(self._caller, self._stub.ListSchedules, request, "schedules")

    async def pause_schedule(self, schedule_id: str, *, paused: bool = True) -> Schedule:
        """Pauses a schedule, or with `paused=False` lets it go on from now."""
        request = pb.PauseScheduleRequest(schedule_id=schedule_id, paused=paused)
        return (await self._caller.repeat(self._stub.PauseSchedule, request)).schedule

    async def delete_schedule(self, schedule_id: str) -> None:
        """Deletes a schedule; what it has started goes on. NotFound when it is absent or another user's."""
        await self._caller.once(self._stub.DeleteSchedule, pb.DeleteScheduleRequest(schedule_id=schedule_id))
