"""EventService as it is called: proto in, proto out. It knows no SQL and no rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.errors import invalid
from carrel_chassis.ids import check_id
from carrel_chassis.rpc.call import caller, current_call
from carrel_events.domain import START, Cursor, Filter
from carrel_events.frames import message
from carrel_events.operations import EventOperations
from carrel_events.pace import PacedWriter
from carrel_events.records import is_type, to_cursor
from carrel_events.tripwire import Tripwire

_DEFAULT_PAGE_SIZE = 200
_MAX_PAGE_SIZE = 1000
_MAX_FILTER_TYPES = 50


class EventServicer(rpc.EventServiceServicer):
    """The methods of EventService."""

    def __init__(self, operations: EventOperations, tripwire: Tripwire, slow_reader_seconds: float) -> None:
        self._operations = operations
        self._tripwire = tripwire
        self._slow_reader_seconds = slow_reader_seconds

    async def AppendEvents(self, request: pb.AppendEventsRequest, context: Any) -> pb.AppendEventsResponse:
        appended = await self._operations.append(caller(), request.events)
        return pb.AppendEventsResponse(last=to_cursor(appended.last), appended=len(appended.new_ids))

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> Any:
        user, call = caller(), current_call()
        after, wanted, size = _cursor(request), _filter(request.filter), _page_size(request.page_size)
        page = await self._operations.list(user, call.call_id, after, wanted, size)
        return message(self._tripwire.own_events(user, page.frames), page.position, more=page.more)

    async def GetRunState(self, request: pb.GetRunStateRequest, context: Any) -> pb.GetRunStateResponse:
        user, call = caller(), current_call()
        state, position = await self._operations.run_state(user, call.call_id, check_id(request.run_id, "run_id"))
        return pb.GetRunStateResponse(run=state, position=to_cursor(position))

    async def EraseUser(self, request: pb.EraseUserRequest, context: Any) -> pb.EraseUserResponse:
        tenant_id, user_id = check_id(request.tenant_id, "tenant_id"), check_id(request.user_id, "user_id")
        return pb.EraseUserResponse(erased_events=await self._operations.erase(tenant_id, user_id))

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> AsyncIterator[pb.SubscribeResponse]:
        user, call = caller(), current_call()
        after, wanted = _cursor(request), _filter(request.filter)
        patient = request.slow_reader == event_pb2.SLOW_READER_COALESCE
        writer = PacedWriter(context.write, None if patient else self._slow_reader_seconds, after)
        subscription = self._operations.subscribe(user, call.call_id, after, wanted, call.stopping, merges=patient)
        async with aclosing(subscription) as pages:
            async for page in pages:
                frames = self._tripwire.own_events(user, page.frames)
                await writer.write(message(frames, page.position), page.position)
                call.progress.update(page.position.metadata())
        return
        yield  # A generator by form alone: what it would yield, somebody else would write, and nobody would time.


def _cursor(request: pb.ListEventsRequest | pb.SubscribeRequest) -> Cursor:
    return Cursor(request.after.epoch, request.after.offset) if request.HasField("after") else START


def _filter(asked: event_pb2.EventFilter) -> Filter:
    if asked.thread_id:
        check_id(asked.thread_id, "filter.thread_id")
    if asked.run_id:
        check_id(asked.run_id, "filter.run_id")
    if len(asked.types) > _MAX_FILTER_TYPES:
        raise invalid("filter.types", f"filter.types has {len(asked.types)} entries; at most {_MAX_FILTER_TYPES}.")
    for type in asked.types:
        if not is_type(type):
            raise invalid("filter.types", "filter.types has an entry that is no event type.")
    return Filter(asked.thread_id, asked.run_id, tuple(asked.types))


def _page_size(asked: int) -> int:
    if asked > _MAX_PAGE_SIZE:
        raise invalid("page_size", f"page_size is {asked}; it is at most {_MAX_PAGE_SIZE}.")
    return asked or _DEFAULT_PAGE_SIZE
