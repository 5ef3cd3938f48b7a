"""What the gateway does for both of its faces, in messages as bytes. It knows neither gRPC's server nor HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

from carrel.api.events.v1 import event_service_pb2 as events
from carrel.api.events.v1.event_pb2 import Cursor, EventFilter
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.runs.v1.run_pb2 import OnDisconnect, Run, RunState
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.signing import Clock
from carrel_gateway.backends import DOWNLOAD, SUBSCRIBE, Backends
from carrel_gateway.following import Context, followed

_FINAL_TYPES = ("agent_completed", "agent_failed", "agent_died", "run_cancelled")
_FINAL_STATES = frozenset(
    {
        RunState.RUN_STATE_SUCCEEDED,
        RunState.RUN_STATE_FAILED,
        RunState.RUN_STATE_CANCELLED,
        RunState.RUN_STATE_TIMED_OUT,
        RunState.RUN_STATE_DEAD,
    }
)
_CALL_SECONDS = 30.0
"""The time of a unary call within a stream, whose own time is an hour."""
_OUTBOX_SECONDS = 60.0
"""How long after the end of a run its final event may still be on its way to the log."""


class Operations:
    """Each method takes the signed context of the user it acts for and the seconds that it may take."""

    def __init__(self, backends: Backends, clock: Clock, upload_max_bytes: int) -> None:
        self._backends = backends
        self._clock = clock
        self._upload_max_bytes = upload_max_bytes

    async def forward(self, method: str, request: bytes, signed_context: bytes, seconds: float) -> bytes:
        """Passes a unary method on to the service that answers it (see backends.UNARY)."""
        return await self._backends.unary(method, request, signed_context, seconds)

    def subscribe(self, request: bytes, signed_context: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
        """The messages of SubscribeResponse."""
        return self._backends.stream(SUBSCRIBE, request, signed_context, seconds)

    def download_corpus(self, request: bytes, signed_context: bytes, seconds: float) -> AsyncGenerator[bytes, None]:
        """The messages of DownloadCorpusResponse."""
        return self._backends.stream(DOWNLOAD, request, signed_context, seconds)

    async def upload_corpus(self, parts: AsyncIterable[bytes], signed_context: bytes, seconds: float) -> bytes:
        """Passes the messages of an upload on; what a user may keep is for tool-dispatch to say, what may pass is said here."""
        return await self._backends.upload(_up_to(self._upload_max_bytes, parts), signed_context, seconds)

    async def watch_run(
        self, request: pb.WatchRunRequest, signed_context: bytes, seconds: float, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """The messages of WatchRunResponse, until the one with the final event; the bytes are those of SubscribeResponse.

        A run that is to end with its followers is followed meanwhile, each time under what `context` gives.
        Raises RUN_NOT_FOUND, HISTORY_TRUNCATED when the end of the run is no longer kept, and the refusal of a follower whose
        credential has ended.
        """
        run = await self._run(request.run_id, signed_context, seconds)
        after = request.after if request.HasField("after") else None
        if run.state in _FINAL_STATES and await self._has_seen_the_end(run, after, signed_context, seconds):
            return
        subscription = events.SubscribeRequest(after=after, filter=EventFilter(run_id=run.run_id))
        messages = self._backends.stream(SUBSCRIBE, subscription.SerializeToString(), signed_context, seconds)
        ends_alone = run.on_disconnect == OnDisconnect.ON_DISCONNECT_CANCEL and run.state not in _FINAL_STATES
        if ends_alone:
            messages = followed(messages, self._backends, run.run_id, context)
        async with aclosing(messages):
            async for message in messages:
                yield message
                if any(event.final for event in events.SubscribeResponse.FromString(message).events):
                    return

    async def _run(self, run_id: str, signed_context: bytes, seconds: float) -> Run:
        request = pb.GetRunRequest(run_id=run_id).SerializeToString()
        answer = await self._backends.unary("GetRun", request, signed_context, min(seconds, _CALL_SECONDS))
        return pb.GetRunResponse.FromString(answer).run

    async def _has_seen_the_end(self, run: Run, after: Cursor | None, signed_context: bytes, seconds: float) -> bool:
        """Whether a reader that goes on after `after` would wait in vain: the final event of the run lies before."""
        recent = self._clock() - run.finish_time.ToMicroseconds() / 1e6 < _OUTBOX_SECONDS
        if after is None and recent:
            return False
        end = await self._end_of(run, signed_context, seconds)
        if end is None and recent:
            return False
        if end is None:
            raise CarrelError(
                Kind.TOO_OLD, "HISTORY_TRUNCATED", "The events of this run are no longer kept; get the run instead."
            )
        return after is not None and after.epoch == end.epoch and after.offset >= end.offset

    async def _end_of(self, run: Run, signed_context: bytes, seconds: float) -> Cursor | None:
        """Where the final event of a run is in the log. The agents within the run have such events too: they are passed over."""
        request = events.ListEventsRequest(filter=EventFilter(run_id=run.run_id, types=_FINAL_TYPES), page_size=1000)
        while True:
            encoded = request.SerializeToString()
            answer = await self._backends.unary("ListEvents", encoded, signed_context, min(seconds, _CALL_SECONDS))
            page = events.ListEventsResponse.FromString(answer)
            for event in page.events:
                if event.final:
                    return event.cursor
            if not page.more:
                return None
            request.after.CopyFrom(page.position)


async def _up_to(most: int, parts: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The same messages; raises TOO_LARGE when they come to more bytes."""
    passed = 0
    async for part in parts:
        passed += len(part)
        if passed > most:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "TOO_LARGE",
                f"The upload has more than {most} bytes; send less.",
                metadata={"limit": "upload_max_bytes", "value": str(most)},
            )
        yield part
