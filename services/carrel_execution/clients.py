"""The services that a run needs, in the words of a run. What may pass by itself is tried again; the rest is said as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import grpc

from carrel.api.context.v1 import context_service_pb2 as context_pb
from carrel.api.context.v1 import context_service_pb2_grpc as context_rpc
from carrel.api.context.v1 import user_context_pb2
from carrel.api.events.v1 import event_pb2, event_service_pb2
from carrel.api.events.v1 import event_service_pb2_grpc as event_rpc
from carrel.api.tools.v1 import tool_service_pb2
from carrel.api.tools.v1 import tool_service_pb2_grpc as tool_rpc
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.ids import new_id
from carrel_chassis.logs import get_logger
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.rpc.status import remote_errors
from carrel_execution.attempt.tool_progress import Tell

T = TypeVar("T")

_FIRST_DELAY_SECONDS = 0.02
_LONGEST_DELAY_SECONDS = 1.0
_CONTEXT_SECONDS = 5.0
_APPEND_SECONDS = 10.0
_TOOL_SECONDS = 5.0
_MOST_TOOLS = 10_000


def passes(error: CarrelError) -> bool:
    """Whether the same call may succeed later: the other side is away, or the transport broke (which names no reason)."""
    broken = error.kind is Kind.INTERNAL and not error.metadata
    later = error.reason in ("UNAVAILABLE", "LIMIT_EXCEEDED")
    return broken or later or error.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT)


async def persist(call: Callable[[], Awaitable[T]], what: str, run_id: str) -> T:
    """Repeats a call for as long as its failures may pass: the caller's own deadline ends it. Only for calls that may be repeated."""
    delay = _FIRST_DELAY_SECONDS
    while True:
        try:
            return await call()
        except CarrelError as error:
            if not passes(error):
                raise
            get_logger().warning("call.repeated", call=what, run_id=run_id, reason=error.reason, delay_seconds=delay)
            # The other side being away is often over at once, as when one line of many broke: its hint is for people's clients.
            hint = 0.0 if error.kind is Kind.UNAVAILABLE else error.retry_seconds or 0.0
            pause = max(delay, min(hint, _LONGEST_DELAY_SECONDS))
        await asyncio.sleep(pause)
        delay = min(delay * 2, _LONGEST_DELAY_SECONDS)


@dataclass(frozen=True, slots=True)
class Credential:
    """The signed context of an attempt, and when it ends, in seconds since the epoch."""

    signed: bytes
    expire_time: float


@dataclass(frozen=True, slots=True)
class Consent:
    """A user's consent to one call of a tool. Times are seconds since the epoch."""

    approval_id: str
    arguments_digest: str
    user_id: str
    approve_time: float
    expire_time: float


class Contexts:
    """The context service."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._stub: context_rpc.ContextServiceAsyncStub = context_rpc.ContextServiceStub(peer.channel)

    async def for_attempt(
        self, grant: bytes, run_id: str, thread_id: str, agent: str, attempt: int, *, closing: bool = False
    ) -> Credential:
        """A fresh context for an attempt; UNAUTHENTICATED when its user may no longer act. One for `closing` is given even then: it
        may only write the end of the run into the user's log."""
        request = context_pb.IssueRunContextRequest(
            grant=user_context_pb2.SignedUserContext.FromString(grant),
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
            attempt=attempt,
            closing=closing,
        )
        with remote_errors():
            answer = await self._stub.IssueRunContext(request, metadata=self._peer.metadata(), timeout=_CONTEXT_SECONDS)
        signed = answer.signed_context
        expire_time = user_context_pb2.UserContext.FromString(signed.context).expire_time.ToMicroseconds() / 1e6
        return Credential(signed.SerializeToString(deterministic=True), expire_time)

    async def for_schedule(self, grant: bytes) -> bytes:
        """A fresh signed context of the session that a schedule was made in; UNAUTHENTICATED when that may no longer act."""
        job = context_pb.ScheduledJob(grant=user_context_pb2.SignedUserContext.FromString(grant))
        request = context_pb.IssueContextRequest(scheduled_job=job, request_id=new_id("request"))
        with remote_errors():
            answer = await self._stub.IssueContext(request, metadata=self._peer.metadata(), timeout=_CONTEXT_SECONDS)
        return answer.signed_context.SerializeToString(deterministic=True)


class Tools:
    """tool-dispatch."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._stub: tool_rpc.ToolServiceAsyncStub = tool_rpc.ToolServiceStub(peer.channel)
        self._telling: dict[str, bool] = {}
        """Whether a tool tells how far it has come."""

    async def execute(
        self,
        signed: bytes,
        step_id: str,
        tool: str,
        arguments_json: str,
        seconds: float,
        consent: Consent | None,
        tell: Tell,
    ) -> str:
        """The JSON result of a tool; the same step may be asked for again. `tell` hears how far the tool has come, if it says that."""
        request = tool_service_pb2.ExecuteToolRequest(step_id=step_id, tool=tool, arguments_json=arguments_json)
        if consent is not None:
            request.approval.approval_id = consent.approval_id
            request.approval.arguments_digest = consent.arguments_digest
            request.approval.user_id = consent.user_id
            request.approval.approve_time.FromMicroseconds(int(consent.approve_time * 1e6))
            request.approval.expire_time.FromMicroseconds(int(consent.expire_time * 1e6))
        if await self._tells_progress(signed, tool):
            return await self._followed(signed, request, seconds, tell)
        with remote_errors():
            answer = await self._stub.ExecuteTool(request, metadata=self._peer.metadata(signed), timeout=seconds)
        return answer.result_json

    async def _followed(
        self, signed: bytes, request: tool_service_pb2.ExecuteToolRequest, seconds: float, tell: Tell
    ) -> str:
        following = tool_service_pb2.ExecuteToolStreamRequest(call=request)
        with remote_errors():
            stream = self._stub.ExecuteToolStream(following, metadata=self._peer.metadata(signed), timeout=seconds)
            try:
                async for message in stream:
                    if message.HasField("result"):
                        return str(message.result.result_json)
                    await tell(message.progress.message, message.progress.done, message.progress.total)
            finally:
                stream.cancel()  # nothing, when it is over
        raise CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "tool-dispatch ended a stream without a result.")

    async def _tells_progress(self, signed: bytes, tool: str) -> bool:
        """Asked once for each tool: most tell nothing, and a stream costs more than a call. What a user may call is never kept."""
        if tool not in self._telling:
            request = tool_service_pb2.GetToolRequest(tool=tool)
            try:
                answer = await self._stub.GetTool(request, metadata=self._peer.metadata(signed), timeout=_TOOL_SECONDS)
            except grpc.aio.AioRpcError:
                return False  # the call itself says what is wrong
            if len(self._telling) == _MOST_TOOLS:
                self._telling.clear()
            self._telling[tool] = answer.tool.tells_progress
        return self._telling[tool]


class Log:
    """event-stream: the log of the user."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._stub: event_rpc.EventServiceAsyncStub = event_rpc.EventServiceStub(peer.channel)

    async def append(self, signed: bytes, events: Sequence[event_pb2.Event], seconds: float = _APPEND_SECONDS) -> None:
        """Appends the events; those that the log has are passed over. STALE_ATTEMPT when a later attempt has written.

        An event that the log will never take is left out, and an error in our log: the final event after it must come through.
        """
        request = event_service_pb2.AppendEventsRequest(events=events)
        try:
            with remote_errors():
                await self._stub.AppendEvents(request, metadata=self._peer.metadata(signed), timeout=seconds)
        except CarrelError as error:
            if error.kind is not Kind.INVALID:
                raise
            if len(events) == 1:
                get_logger().error("event.refused", event_id=events[0].event_id, reason=error.reason)
                return
            for event in events:
                await self.append(signed, [event], seconds)
