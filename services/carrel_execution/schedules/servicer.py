"""ScheduleService as it is called: proto in, proto out."""

from __future__ import annotations

from typing import Any

from carrel.api.runs.v1 import schedule_pb2
from carrel.api.runs.v1 import schedule_service_pb2 as pb
from carrel.api.runs.v1 import schedule_service_pb2_grpc as rpc
from carrel_chassis.pages import Page
from carrel_chassis.rpc.call import caller, current_call
from carrel_execution.runs.start import StartRequest
from carrel_execution.schedules.operations import ScheduleOperations
from carrel_execution.schedules.schedule import Schedule, ScheduleRequest
from carrel_execution.wire import busy_thread_from_message, busy_thread_to_message, timestamp


class ScheduleServicer(rpc.ScheduleServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, operations: ScheduleOperations) -> None:
        self._operations = operations

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Any) -> pb.CreateScheduleResponse:
        call = current_call()
        start = StartRequest(
            request_id=request.request_id,
            agent=request.agent,
            input_json=request.input_json,
            thread_id=request.thread_id,
            busy_thread=busy_thread_from_message(request.busy_thread),
            priority=request.priority,
        )
        wanted = ScheduleRequest(request.cron, request.time_zone, start)
        schedule = await self._operations.create(caller(), call.call_id, call.signed_context, wanted)
        return pb.CreateScheduleResponse(schedule=_message(schedule))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.GetScheduleResponse:
        schedule = await self._operations.get(caller(), current_call().call_id, request.schedule_id)
        return pb.GetScheduleResponse(schedule=_message(schedule))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> pb.ListSchedulesResponse:
        page = Page.newest_first("schedules", request.page_size, request.page_token)
        schedules, token = await self._operations.list(caller(), current_call().call_id, page)
        return pb.ListSchedulesResponse(schedules=[_message(each) for each in schedules], next_page_token=token)

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> pb.PauseScheduleResponse:
        call = current_call()
        if request.paused:
            schedule = await self._operations.pause(caller(), call.call_id, request.schedule_id)
        else:
            schedule = await self._operations.resume(caller(), call.call_id, call.signed_context, request.schedule_id)
        return pb.PauseScheduleResponse(schedule=_message(schedule))

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Any) -> pb.DeleteScheduleResponse:
        await self._operations.delete(caller(), current_call().call_id, request.schedule_id)
        return pb.DeleteScheduleResponse()


def _message(schedule: Schedule) -> schedule_pb2.Schedule:
    return schedule_pb2.Schedule(
        schedule_id=schedule.schedule_id,
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        agent=schedule.agent,
        input_json=schedule.input_json,
        thread_id=schedule.thread_id,
        busy_thread=busy_thread_to_message(schedule.busy_thread),
        priority=schedule.priority,
        paused=schedule.paused,
        create_time=timestamp(schedule.create_time),
        next_time=timestamp(schedule.next_time),
        last_run_id=schedule.last_run_id,
        last_error=schedule.last_error,
    )
