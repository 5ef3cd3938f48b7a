"""Events: streams that go on by themselves, pages, and what a run's events come to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from carrel._calls import followed
from carrel._client.runs import RunCalls
from carrel.api.events.v1.event_pb2 import Cursor, Event, EventFilter
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.runs.v1.run_pb2 import Run

STREAM_SECONDS = 3660.0
"""Longer than the server's own greatest age of a stream, so that the server ends it first, with a reason."""


class EventCalls(RunCalls):
    """The user's events."""

    def watch_run(self, run_id: str, after: Cursor | None = None) -> AsyncGenerator[Event, None]:
        """The events of one run from its beginning, or after a cursor, until its final event.

        Goes on by itself when the line breaks; a fault of the server that comes six times at the same place is raised.
        """

        def opened(position: Cursor | None) -> grpc.aio.UnaryStreamCall[Any, pb.WatchRunResponse]:
            request = pb.WatchRunRequest(run_id=run_id, after=position)
            return self._stub.WatchRun(request, metadata=self._caller.metadata, timeout=STREAM_SECONDS)

        return followed(opened, after, ends=True)

    async def wait_for_run(self, run_id: str) -> Run:
        """The run with its result, once it has ended, however it has ended."""
        async with aclosing(self.watch_run(run_id)) as events:
            async for _ in events:
                pass
        return await self.get_run(run_id)

    def subscribe(
        self, after: Cursor | None = None, *, run_id: str = "", thread_id: str = "", types: Sequence[str] = ()
    ) -> AsyncGenerator[Event, None]:
        """The user's events after a cursor, then live, without end: each once, in order, none missing.

        Goes on by itself when the line breaks; a fault of the server that comes six times at the same place is raised.
        Fails with HistoryTruncated when the cursor is older than what is kept.
        """
        wanted = EventFilter(run_id=run_id, thread_id=thread_id, types=types)

        def opened(position: Cursor | None) -> grpc.aio.UnaryStreamCall[Any, pb.SubscribeResponse]:
            request = pb.SubscribeRequest(after=position, filter=wanted)
            return self._stub.Subscribe(request, metadata=self._caller.metadata, timeout=STREAM_SECONDS)

        return followed(opened, after, ends=False)

    async def list_events(
        self,
        after: Cursor | None = None,
        *,
        run_id: str = "",
        thread_id: str = "",
        types: Sequence[str] = (),
        page_size: int = 0,
    ) -> pb.ListEventsResponse:
        """One page of events after a cursor, oldest first; go on after its `position` while it says `more`."""
        wanted = EventFilter(run_id=run_id, thread_id=thread_id, types=types)
        request = pb.ListEventsRequest(after=after, filter=wanted, page_size=page_size)
        return await self._caller.repeat(self._stub.ListEvents, request)

    async def get_run_state(self, run_id: str) -> pb.GetRunStateResponse:
        """What a run's events come to, for a reader that comes late: subscribe after its `position`."""
        return await self._caller.repeat(self._stub.GetRunState, pb.GetRunStateRequest(run_id=run_id))
