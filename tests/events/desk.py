"""A user's log as tests use it: a producer that writes as a run, a reader with a stream, and replicas with settings of their own."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.rpc.channel import Peer, open_channel
from carrel_chassis.stack.ports import free_ports
from carrel_events.__main__ import serve
from carrel_events.settings import EventsSettings
from tests.support.system import Person, System


def thought(text: str = "hm", **fields: Any) -> event_pb2.Event:
    """An event as a producer sends it."""
    event_id = f"event-{secrets.token_hex(8)}"
    payload = event_pb2.AgentThinking(text=text)
    return event_pb2.Event(**{"event_id": event_id, "type": "agent_thinking", "agent_thinking": payload, **fields})


def thoughts(count: int) -> list[event_pb2.Event]:
    return [thought(f"thought {number}") for number in range(1, count + 1)]


def texts(events: Any) -> list[str]:
    return [event.agent_thinking.text for event in events]


def offsets(events: Any) -> list[int]:
    return [event.cursor.offset for event in events]


class Run:
    """One attempt of a run of a person; it writes as agent-execution does."""

    def __init__(self, peer: Peer, channel: grpc.aio.Channel, context: bytes) -> None:
        self._peer = peer
        self._stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(channel)
        self._context = context

    @classmethod
    async def of(cls, system: System, person: Person, run_id: str = "", **fields: Any) -> Run:
        run_id = run_id or f"run-{secrets.token_hex(8)}"
        peer = system.peer("event-stream", "agent-execution")
        return cls(peer, peer.channel, await system.run_context(person, run_id, **fields))

    def at(self, channel: grpc.aio.Channel) -> Run:
        """The same run, writing at another replica."""
        return Run(self._peer, channel, self._context)

    async def append(self, *events: event_pb2.Event) -> pb.AppendEventsResponse:
        request = pb.AppendEventsRequest(events=events)
        return await self._stub.AppendEvents(request, metadata=self._peer.metadata(self._context), timeout=10)


class Reader:
    """A person at one address of the service."""

    def __init__(self, channel: grpc.aio.Channel, person: Person) -> None:
        self._stub: rpc.EventServiceAsyncStub = rpc.EventServiceStub(channel)
        self._metadata = person.metadata

    async def list(self, **fields: Any) -> pb.ListEventsResponse:
        return await self._stub.ListEvents(pb.ListEventsRequest(**fields), metadata=self._metadata, timeout=10)

    async def run_state(self, run_id: str) -> pb.GetRunStateResponse:
        return await self._stub.GetRunState(pb.GetRunStateRequest(run_id=run_id), metadata=self._metadata, timeout=10)

    @asynccontextmanager
    async def stream(self, **fields: Any) -> AsyncIterator[Stream]:
        call = self._stub.Subscribe(pb.SubscribeRequest(**fields), metadata=self._metadata, timeout=60)
        try:
            yield Stream(call)
        finally:
            call.cancel()


class Stream:
    """An open stream, message by message."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages: list[pb.SubscribeResponse] = []

    @property
    def events(self) -> list[event_pb2.Event]:
        """All that have come."""
        return [event for message in self.messages for event in message.events]

    @property
    def position(self) -> event_pb2.Cursor:
        return self.messages[-1].position

    async def message(self, seconds: float = 10) -> pb.SubscribeResponse:
        """The next message; raises what the stream ends with."""
        async with asyncio.timeout(seconds):
            self.messages.append(await anext(self.call.__aiter__()))
        return self.messages[-1]

    async def until(self, enough: Callable[[Stream], bool], seconds: float = 10) -> Stream:
        async with asyncio.timeout(seconds):
            while not enough(self):
                await self.message(seconds)
        return self

    async def until_events(self, count: int) -> list[event_pb2.Event]:
        """The first `count` events."""
        return (await self.until(lambda stream: len(stream.events) >= count)).events

    async def open(self) -> Stream:
        """Returns when the stream stands: the first message says where."""
        return await self.until(lambda stream: bool(stream.messages))


def reader(system: System, person: Person) -> Reader:
    return Reader(system.peer("event-stream").channel, person)


@asynccontextmanager
async def replica(system: System, stop: asyncio.Event | None = None, **changes: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Another replica of the service, in this process, on the same database and bus, until `stop` or the end of the block;
    `changes` are settings."""
    environment = system.stack.service_environment("events")
    told = {name.removeprefix("CARREL_").lower(): value for name, value in environment.items()}
    address = f"127.0.0.1:{free_ports(1)[0]}"
    settings = EventsSettings(**{**told, "listen": address, "metrics_listen": "", "drain_seconds": 2, **changes})
    stop = stop or asyncio.Event()
    serving = asyncio.create_task(serve(settings, stop))
    channel = open_channel(address)
    try:
        await asyncio.wait_for(channel.channel_ready(), 10)
        yield channel
    finally:
        stop.set()
        await serving
        await channel.close()


async def blocked_count(system: System) -> float:
    """What the service's metrics page says of the tripwire."""
    return await metric(system, "carrel_cross_user_blocked_total")


async def metric(system: System, name: str) -> float:
    """A number on the service's metrics page."""
    host, port = system.addresses["metrics.events"].split(":")
    source, sink = await asyncio.open_connection(host, int(port))
    sink.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    page = (await source.read()).decode()
    sink.close()
    with suppress(OSError):
        await sink.wait_closed()
    [line] = [line for line in page.splitlines() if line.startswith(name)]
    return float(line.rsplit(" ", 1)[1])
