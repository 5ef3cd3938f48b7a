"""The client: what a program outside uses to start runs and to follow them. It knows the gateway's API and nothing behind it.

async with Client("127.0.0.1:7400", token) as carrel:
    run = await carrel.start_run("triage", {"text": "Where does my money go?"})
    async for event in carrel.watch_run(run.run_id):
        print(event.type)
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import grpc

from carrel._calls import Caller, followed, open_channel
from carrel.api.context.v1.thread_pb2 import Thread
from carrel.api.events.v1.event_pb2 import Cursor, Event, EventFilter
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.gateway.v1 import gateway_service_pb2_grpc as rpc
from carrel.api.runs.v1.run_pb2 import Agent, Run, RunState
from carrel.api.tools.v1.tool_pb2 import Corpus, Tool, ToolCall
from carrel.errors import CarrelClientError, client_error
from carrel.uploads import send_all

__all__ = [
    "Agent",
    "CarrelClientError",
    "Client",
    "Corpus",
    "Cursor",
    "Event",
    "Run",
    "RunState",
    "Thread",
    "Tool",
    "ToolCall",
]

JSON: TypeAlias = Any

CHUNK_BYTES = 256 * 1024
UPLOAD_SECONDS = 600.0
STREAM_SECONDS = 3660.0
"""Longer than the server's own greatest age of a stream, so that the server ends it first, with a reason."""


class Client:
    """A user's connection to Carrel; made and used within one event loop, safe for many calls at once.

    `token` is an API key or a JWT. Without `credentials` the line is not encrypted: for this machine only.
    Every call fails with CarrelClientError or one of its subclasses (see carrel.errors); reads and starts are tried again
    for a moment while the gateway is away. Lists and streams are generators: whoever leaves one early should close it,
    `async with aclosing(client.subscribe()) as events: ...`.
    """

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

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and every call on it."""
        await self._channel.close()

    async def start_run(
        self, agent: str, input: Mapping[str, JSON], thread_id: str = "", request_id: str | None = None
    ) -> Run:
        """Accepts a run; when this returns, it is durable. The same `request_id` again returns the same run; None makes a new one."""
        request = pb.StartRunRequest(
            request_id=str(uuid.uuid4()) if request_id is None else request_id,
            agent=agent,
            input_json=json.dumps(input, ensure_ascii=False, separators=(",", ":")),
            thread_id=thread_id,
        )
        return (await self._caller.repeat(self._stub.StartRun, request)).run

    async def get_run(self, run_id: str) -> Run:
        """A run with its input and result; NotFound when it is absent or another user's."""
        return (await self._caller.repeat(self._stub.GetRun, pb.GetRunRequest(run_id=run_id))).run

    async def list_runs(
        self, *, states: Sequence[RunState.ValueType] = (), thread_id: str = "", page_size: int = 0
    ) -> AsyncGenerator[Run, None]:
        """The user's runs, newest first, without their results; pages are fetched as they are needed."""
        request = pb.ListRunsRequest(states=states, thread_id=thread_id, page_size=page_size)
        async for page in self._caller.pages(self._stub.ListRuns, request):
            for run in page.runs:
                yield run

    async def cancel_run(self, run_id: str, reason: str = "") -> Run:
        """Asks a run to stop and returns it as it is now; `watch_run` or `get_run` tells when it has."""
        return (await self._caller.once(self._stub.CancelRun, pb.CancelRunRequest(run_id=run_id, reason=reason))).run

    def watch_run(self, run_id: str, after: Cursor | None = None) -> AsyncGenerator[Event, None]:
        """The events of one run from its beginning, or after a cursor, until its final event. Goes on by itself when the line breaks."""

        def opened(position: Cursor | None) -> grpc.aio.UnaryStreamCall[Any, pb.WatchRunResponse]:
            request = pb.WatchRunRequest(run_id=run_id, after=position)
            return self._stub.WatchRun(request, metadata=self._caller.metadata, timeout=STREAM_SECONDS)

        return followed(opened, after, ends=True)

    def subscribe(
        self, after: Cursor | None = None, *, run_id: str = "", thread_id: str = "", types: Sequence[str] = ()
    ) -> AsyncGenerator[Event, None]:
        """The user's events after a cursor, then live, without end: each once, in order, none missing.

        Goes on by itself when the line breaks. Fails with HistoryTruncated when the cursor is older than what is kept.
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

    async def list_agents(self) -> list[Agent]:
        """The agents that can be started, by name."""
        return list((await self._caller.repeat(self._stub.ListAgents, pb.ListAgentsRequest())).agents)

    async def list_tools(self) -> list[Tool]:
        """The tools that the user's agents may use now, by name."""
        return list((await self._caller.repeat(self._stub.ListTools, pb.ListToolsRequest())).tools)

    async def list_tool_calls(self, run_id: str = "", *, page_size: int = 0) -> AsyncGenerator[ToolCall, None]:
        """The user's tool calls, newest first, of one run or of all; pages are fetched as they are needed."""
        request = pb.ListToolCallsRequest(run_id=run_id, page_size=page_size)
        async for page in self._caller.pages(self._stub.ListToolCalls, request):
            for tool_call in page.tool_calls:
                yield tool_call

    async def create_thread(self, title: str = "", request_id: str | None = None) -> Thread:
        """A new thread: give its id to `start_run`. The same `request_id` again returns the same thread; None makes a new one."""
        request = pb.CreateThreadRequest(
            request_id=str(uuid.uuid4()) if request_id is None else request_id, title=title
        )
        return (await self._caller.repeat(self._stub.CreateThread, request)).thread

    async def get_thread(self, thread_id: str) -> Thread:
        """A thread; NotFound when it is absent or another user's."""
        return (await self._caller.repeat(self._stub.GetThread, pb.GetThreadRequest(thread_id=thread_id))).thread

    async def list_threads(self, *, page_size: int = 0) -> AsyncGenerator[Thread, None]:
        """The user's threads, newest first; pages are fetched as they are needed."""
        request = pb.ListThreadsRequest(page_size=page_size)
        async for page in self._caller.pages(self._stub.ListThreads, request):
            for thread in page.threads:
                yield thread

    async def rename_thread(self, thread_id: str, title: str) -> Thread:
        """Gives a thread another title; its id stays."""
        request = pb.RenameThreadRequest(thread_id=thread_id, title=title)
        return (await self._caller.repeat(self._stub.RenameThread, request)).thread

    async def delete_thread(self, thread_id: str) -> None:
        """Takes a thread off the list; its runs stay. NotFound when it is absent or another user's."""
        await self._caller.once(self._stub.DeleteThread, pb.DeleteThreadRequest(thread_id=thread_id))

    async def upload_corpus(self, name: str, source: Path | str | bytes, media_type: str = "text/csv") -> Corpus:
        """Stores a file, given by its path or as bytes, under a name; other content under the same name is replaced.

        Raises OSError when the file cannot be read.
        """
        chunks = _chunks_of_bytes(source) if isinstance(source, bytes) else _chunks_of_file(Path(source))
        first = await asyncio.to_thread(next, chunks, b"")  # a file that cannot be read fails before the call begins
        call = self._stub.UploadCorpus(metadata=self._caller.metadata, timeout=UPLOAD_SECONDS)
        try:
            await send_all(call, _parts(pb.UploadHeader(name=name, media_type=media_type), first, chunks))
            return (await call).corpus
        except grpc.aio.AioRpcError as error:
            raise client_error(error) from None
        finally:
            call.cancel()

    async def list_corpora(self, *, page_size: int = 0) -> AsyncGenerator[Corpus, None]:
        """The user's corpora by name; pages are fetched as they are needed."""
        request = pb.ListCorporaRequest(page_size=page_size)
        async for page in self._caller.pages(self._stub.ListCorpora, request):
            for corpus in page.corpora:
                yield corpus

    async def delete_corpus(self, name: str) -> None:
        """Deletes a corpus and its bytes; NotFound when it is absent or another user's."""
        await self._caller.once(self._stub.DeleteCorpus, pb.DeleteCorpusRequest(name=name))


async def _parts(header: pb.UploadHeader, chunk: bytes, rest: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The messages of an upload; the disk is read beside the loop."""
    yield pb.UploadCorpusRequest(header=header).SerializeToString()
    while chunk:
        yield pb.UploadCorpusRequest(chunk=chunk).SerializeToString()
        chunk = await asyncio.to_thread(next, rest, b"")


def _chunks_of_bytes(content: bytes) -> Iterator[bytes]:
    for begin in range(0, len(content), CHUNK_BYTES):
        yield content[begin : begin + CHUNK_BYTES]


def _chunks_of_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
