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
        user, call = caller(), current_call()
        appended = await self._operations.append(user, call.call_id, request.events)
        return pb.AppendEventsResponse(last=to_cursor(appended.last), appended=len(appended.new_ids))

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> pb.ListEventsResponse:
        user, call = caller(), current_call()
        after, wanted, size = _cursor(request), _filter(request.filter), _page_size(request.page_size)
        page = await self._operations.list(user, call.call_id, after, wanted, size)
        return pb.ListEventsResponse(
            events=self._tripwire.own_events(user, page.events), position=to_cursor(page.position), more=page.more
        )

    async def Subscribe(self, request: pb.SubscribeRequest, context: Any) -> AsyncIterator[pb.SubscribeResponse]:
        user, call = caller(), current_call()
        after, wanted = _cursor(request), _filter(request.filter)
        writer = PacedWriter(context.write, self._slow_reader_seconds, after)
        call.progress.update(after.metadata())
        async with aclosing(self._operations.subscribe(user, call.call_id, after, wanted, call.stopping)) as pages:
            async for page in pages:
                events = self._tripwire.own_events(user, page.events)
                message = pb.SubscribeResponse(events=events, position=to_cursor(page.position))
                await writer.write(message, page.position)
                call.progress.update(page.position.metadata())
        return
        yield  # A generator by form alone: what it would yield, somebody else would write, and nobody would time.


def _cursor(request: pb.ListEventsRequest | pb.SubscribeRequest) -> Cursor:
    return Cursor(request.after.epoch, request.after.offset) if request.HasField("after") else START


def _filter(message: event_pb2.EventFilter) -> Filter:
    if message.thread_id:
        check_id(message.thread_id, "filter.thread_id")
    if message.run_id:
        check_id(message.run_id, "filter.run_id")
    if len(message.types) > _MAX_FILTER_TYPES:
        raise invalid("filter.types", f"filter.types has {len(message.types)} entries; at most {_MAX_FILTER_TYPES}.")
    for type in message.types:
        if not is_type(type):
            raise invalid("filter.types", "filter.types has an entry that is no event type.")
    return Filter(message.thread_id, message.run_id, tuple(message.types))


def _page_size(asked: int) -> int:
    if asked > _MAX_PAGE_SIZE:
        raise invalid("page_size", f"page_size is {asked}; it is at most {_MAX_PAGE_SIZE}.")
    return asked or _DEFAULT_PAGE_SIZE
