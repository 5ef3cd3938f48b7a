"""Users of a log by the thousand, as benchmarks need them: signed here with the context service's own key, writing and reading."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from pathlib import Path
from typing import Any

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.identity import UserContext
from carrel_chassis.rpc.channel import Metadata, Peer
from carrel_chassis.signing import ContextSigner, ServiceSigner, read_key
from carrel_chassis.stack import Stack, StackSettings
from tests.support.forge import genuine_signer
from tests.support.system import System

TEXT = "The latency of the last hundred calls is looked at, model by model, before anything is said about costs. " * 2
"""An event with it has about 400 bytes."""


def thought(number: int, text: str = TEXT) -> event_pb2.Event:
    """An event whose id and time say when it was made, by the clock that `time.perf_counter` reads."""
    event_id = f"e{number}-{secrets.token_hex(4)}"
    payload = event_pb2.AgentThinking(text=text)
    return event_pb2.Event(event_id=event_id, type="agent_thinking", agent="bench", agent_thinking=payload)


class User:
    """One user with one run, at one address of event-stream."""

    def __init__(self, signer: ContextSigner, peer: Peer, number: int) -> None:
        now = time.time()
        name = f"{number}-{secrets.token_hex(4)}"
        self.context = UserContext(
            context_id=f"ctx-{name}",
            tenant_id=f"tenant-{name}",
            user_id=f"user-{name}",
            session_id=f"session-{name}",
            scopes=frozenset({"events.read"}),
            audiences=frozenset({"event-stream"}),
            issue_time=now,
            expire_time=now + 290,
            request_id=f"request-{name}",
            thread_id=f"thread-{name}",
            run_id=f"run-{name}",
            agent="bench",
            attempt=1,
        )
        self._signed = signer.sign(self.context).SerializeToString(deterministic=True)
        self._peer = peer
        self._stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(peer.channel)
        self._made = 0

    def at(self, peer: Peer) -> User:
        """The same user, by another connection."""
        other = copy(self)
        other._peer, other._stub = peer, rpc.EventServiceStub(peer.channel)
        return other

    @property
    def metadata(self) -> Metadata:
        return self._peer.metadata(self._signed)

    def events(self, count: int) -> list[event_pb2.Event]:
        """The next events of the run."""
        self._made += count
        return [thought(number) for number in range(self._made - count + 1, self._made + 1)]

    async def append(self, count: int = 1) -> pb.AppendEventsResponse:
        request = pb.AppendEventsRequest(events=self.events(count))
        return await self._stub.AppendEvents(request, metadata=self.metadata, timeout=60)

    def subscribe(self, **fields: Any) -> Any:
        return self._stub.Subscribe(pb.SubscribeRequest(**fields), metadata=self.metadata)

    async def list(self, **fields: Any) -> pb.ListEventsResponse:
        return await self._stub.ListEvents(pb.ListEventsRequest(**fields), metadata=self.metadata, timeout=60)


class Crowd:
    """Makes users of a running system."""

    def __init__(self, system: System, signer: ContextSigner) -> None:
        self.system = system
        self._signer = signer
        self._made = 0
        identity = "agent-execution"
        self._service = ServiceSigner(identity, read_key(system.data_dir / "keys" / f"{identity}.key"), time.time)
        self._peers: list[Peer] = []

    def users(self, count: int, *, per_channel: int = 100) -> list[User]:
        """New users; so many share a connection, as the users of one gateway do."""
        made: list[User] = []
        for number in range(count):
            if number % per_channel == 0:
                self._peers.append(Peer("event-stream", self.system.addresses["events"], self._service))
            made.append(User(self._signer, self._peers[-1], self._made + number))
        self._made += count
        return made

    def connections(self, user: User, count: int) -> list[User]:
        """The same user on connections of their own: gRPC allows a hundred streams on each."""
        for _ in range(count):
            self._peers.append(Peer("event-stream", self.system.addresses["events"], self._service))
        return [user.at(peer) for peer in self._peers[-count:]]

    async def close(self) -> None:
        for peer in self._peers:
            await peer.close()


@asynccontextmanager
async def crowd(**environment: str) -> AsyncIterator[Crowd]:
    """A system of its own with fsync on, and whoever comes to it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = StackSettings(
            Path(folder) / "data",
            only=("context", "events"),
            service_environment={"CARREL_LOG_LEVEL": "WARNING", **environment},
        )
        async with Stack(settings) as stack:
            await stack.ready(60)
            system = System(stack)
            people = Crowd(system, await genuine_signer(system))
            try:
                yield people
            finally:
                await people.close()
                await system.close()


def cores() -> str:
    """What the figures were measured on, for their conditions."""
    return f"engines, service and load on {os.cpu_count()} cores, fsync on"
