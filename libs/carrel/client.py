"""The client: what a program outside uses to start runs and to follow them. It knows the gateway's API and nothing behind it.

async with Client("127.0.0.1:7400", token) as carrel:
    run = await carrel.start_run("triage", {"text": "Where does my money go?"})
    async for event in carrel.watch_run(run.run_id):
        print(event.type)
"""

from __future__ import annotations

from types import TracebackType

import grpc

from carrel._calls import Caller, open_channel
from carrel._client.admin import Admin
from carrel._client.corpora import CorpusCalls
from carrel._client.events import EventCalls
from carrel._client.schedules import ScheduleCalls
from carrel._client.threads import SessionCalls, ThreadCalls
from carrel._client.tools import ToolCalls
from carrel.api.context.v1.session_pb2 import Session
from carrel.api.context.v1.thread_pb2 import Thread
from carrel.api.events.v1.event_pb2 import Cursor, Event
from carrel.api.gateway.v1 import admin_service_pb2_grpc as admin_rpc
from carrel.api.gateway.v1 import gateway_service_pb2_grpc as rpc
from carrel.api.runs.v1.run_pb2 import (
    Agent,
    BusyThread,
    OnDisconnect,
    Run,
    RunState,
    RunStatistics,
    Step,
    Wait,
    WaitKind,
    WaitState,
)
from carrel.api.runs.v1.schedule_pb2 import Schedule
from carrel.api.tools.v1.tool_pb2 import Corpus, Tool, ToolCall, ToolCancellation
from carrel.errors import CarrelClientError

__all__ = [
    "Admin",
    "Agent",
    "BusyThread",
    "CarrelClientError",
    "Client",
    "Corpus",
    "Cursor",
    "Event",
    "OnDisconnect",
    "Run",
    "RunState",
    "RunStatistics",
    "Schedule",
    "Session",
    "Step",
    "Thread",
    "Tool",
    "ToolCall",
    "ToolCancellation",
    "Wait",
    "WaitKind",
    "WaitState",
]


class Client(EventCalls, ScheduleCalls, ThreadCalls, SessionCalls, ToolCalls, CorpusCalls):
    """A user's connection to Carrel; made and used within one event loop, safe for many calls at once.

    `token` is an API key or a JWT. Without `credentials` the line is not encrypted: for this machine only.
    Every call fails with CarrelClientError or one of its subclasses (see carrel.errors); reads and starts are tried again
    for a moment while the gateway is away. Lists and streams are generators: whoever leaves one early should close it,
    `async with aclosing(client.subscribe()) as events: ...`.
    """

    admin: Admin
    """The calls of administrators."""

    def __init__(
        self,
        address: str,
        token: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        call_seconds: float = 30.0,
    ) -> None:
        self._channel = open_channel(address, credentials)
        self._stub: rpc.GatewayServiceAsyncStub = rpc.GatewayServiceStub(self._channel)
        self._caller = Caller(token, call_seconds)
        admin: admin_rpc.AdminServiceAsyncStub = admin_rpc.AdminServiceStub(self._channel)
        self.admin = Admin(admin, self._caller)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every call on it."""
        await self._channel.close()
