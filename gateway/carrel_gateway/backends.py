"""The services behind, as bytes: which method goes where, and how a call is passed on. It reads no message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from carrel.uploads import send_all
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.channel import Peer
from carrel_gateway.outward import outward_errors, unavailable

EXECUTION = "agent-execution"
TOOLS = "tool-dispatch"
CONTEXT = "context"
EVENTS = "event-stream"

_STREAM_GRACE_SECONDS = 5.0
"""A stream's own end, with its reason, comes before the deadline of the call behind it."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a method of the gateway is answered: the service, and the full path of the method that takes the same bytes."""

    service: str
    path: str


def _routes(service: str, grpc_service: str, *methods: str) -> dict[str, Route]:
    return {method: Route(service, f"/{grpc_service}/{method}") for method in methods}


UNARY: Mapping[str, Route] = {
    **_routes(
        EXECUTION,
        "carrel.api.runs.v1.RunService",
        "StartRun",
        "GetRun",
        "ListRuns",
        "CancelRun",
        "RepeatRun",
        "ListSteps",
        "ListWaits",
        "ResolveWait",
        "GetRunStatistics",
        "GetOverallRunStatistics",
        "InspectWorker",
        "ListAgents",
    ),
    **_routes(
        EXECUTION,
        "carrel.api.runs.v1.ScheduleService",
        "CreateSchedule",
        "GetSchedule",
        "ListSchedules",
        "PauseSchedule",
        "DeleteSchedule",
    ),
    **_routes(EVENTS, "carrel.api.events.v1.EventService", "ListEvents", "GetRunState"),
    **_routes(
        CONTEXT,
        "carrel.api.context.v1.ThreadService",
        "CreateThread",
        "GetThread",
        "ListThreads",
        "RenameThread",
        "DeleteThread",
    ),
    **_routes(CONTEXT, "carrel.api.context.v1.SessionService", "ListSessions", "EndSession"),
    **_routes(
        CONTEXT,
        "carrel.api.context.v1.DirectoryService",
        "CreateTenant",
        "ListTenants",
        "CreateUser",
        "GetUser",
        "ListUsers",
        "UpdateUser",
        "ListApiKeys",
        "RevokeApiKey",
        "GetLimits",
        "SetLimits",
        "ListServiceIdentities",
    ),
    **_routes(CONTEXT, "carrel.api.context.v1.RevocationService", "Revoke", "Restore"),
    **_routes(CONTEXT, "carrel.api.context.v1.ContextService", "CreateApiKey", "InspectContext", "RotateSigningKeys"),
    **_routes(TOOLS, "carrel.api.tools.v1.ToolService", "ListTools", "GetTool", "CancelTool", "ListToolCalls"),
    **_routes(
        TOOLS,
        "carrel.api.tools.v1.ToolPolicyService",
        "GetToolPolicy",
        "SetToolPolicy",
        "TestToolPolicy",
        "ListToolDecisions",
        "ListTenantToolDecisions",
    ),
    **_routes(
        TOOLS,
        "carrel.api.tools.v1.CorpusService",
        "GetUpload",
        "GetCorpus",
        "ListCorpora",
        "DeleteCorpus",
        "EraseCorpora",
    ),
}
SUBSCRIBE = Route(EVENTS, "/carrel.api.events.v1.EventService/Subscribe")
DOWNLOAD = Route(TOOLS, "/carrel.api.tools.v1.CorpusService/DownloadCorpus")
UPLOAD = Route(TOOLS, "/carrel.api.tools.v1.CorpusService/UploadCorpus")
"""With WatchRun, which is made of some of these, they are all methods of the gateway; a test compares their messages."""
FOLLOW = Route(EXECUTION, "/carrel.api.runs.v1.RunService/FollowRun")
"""No method of the gateway: it calls this one itself for each open WatchRun."""


class Backends:
    """Passes calls on. `peers` holds a Peer for each of CONTEXT, EXECUTION, TOOLS and EVENTS."""

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        self.peers = peers
        # Made once: a multi-callable takes a registration in gRPC's core.
        self._unary = {route: self._method(route, "unary_unary") for route in (*UNARY.values(), FOLLOW)}
        self._streaming = {route: self._method(route, "unary_stream") for route in (SUBSCRIBE, DOWNLOAD)}
        self._upload = self._method(UPLOAD, "stream_unary")
        self._streams: set[Any] = set()
        self._ending = False

    def _method(self, route: Route, shape: str) -> Callable[..., Any]:
        method: Callable[..., Any] = getattr(self.peers[route.service].channel, shape)(route.path, None, None)
        return method

    async def unary(self, method: str, request: bytes, signed_context: bytes, seconds: float) -> bytes:
        """The answer to a request of the gateway; raises the CarrelError that the service gave."""
        return await self.send(UNARY[method], request, signed_context, seconds)

    async def send(self, route: Route, request: bytes, signed_context: bytes, seconds: float) -> bytes:
        """The answer of the method behind a route; raises the CarrelError that the service gave."""
        peer = self.peers[route.service]
        with outward_errors(peer.name):
            answer: bytes = await self._unary[route](request, metadata=peer.metadata(signed_context), timeout=seconds)
        return answer

    async def stream(
        self, route: Route, request: bytes, signed_context: bytes, seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """The messages of a stream until it ends, fails, or `end_streams` is called; it reads no faster than it is read."""
        peer = self.peers[route.service]
        if self._ending:
            raise draining()
        timeout = seconds + _STREAM_GRACE_SECONDS
        call = self._streaming[route](request, metadata=peer.metadata(signed_context), timeout=timeout)
        self._streams.add(call)
        try:
            with outward_errors(peer.name):
                async for message in call:
                    yield message
        except asyncio.CancelledError:
            # grpc.aio says CancelledError too when the call, not this task, was cancelled: by us, or by the other side.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise (draining() if self._ending else unavailable(peer.name)) from None
        finally:
            self._streams.discard(call)
            call.cancel()  # a stream that is left and not cancelled keeps its memory

    async def upload(self, parts: AsyncIterable[bytes], signed_context: bytes, seconds: float) -> bytes:
        """Passes the messages of an upload on as they come, no faster than they are taken; returns the answer."""
        peer = self.peers[TOOLS]
        call = self._upload(metadata=peer.metadata(signed_context), timeout=seconds)
        try:
            with outward_errors(peer.name):
                await send_all(call, parts)
                answer: bytes = await call
        finally:
            call.cancel()
        return answer

    def end_streams(self) -> None:
        """Ends every open stream with UNAVAILABLE and opens no new one: the gateway drains."""
        self._ending = True
        for call in list(self._streams):
            call.cancel()

    @property
    def ending(self) -> bool:
        """Whether the gateway drains."""
        return self._ending


def draining() -> CarrelError:
    """The error of a stream that ends because the gateway does."""
    return CarrelError(
        Kind.UNAVAILABLE, "UNAVAILABLE", "This gateway is stopping; open the stream again after the last position."
    )
