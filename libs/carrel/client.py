"""The client: what a program outside uses to start runs and to follow them. It knows the gateway's API and nothing behind it.

async with Client("127.0.0.1:7400", token) as carrel:
    run = await carrel.start_run("triage", {"text": "Where does my money go?"})
    async for event in carrel.watch_run(run.run_id):
        print(event.type)
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc

from carrel.api.events.v1.event_pb2 import Cursor, Event, EventFilter
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.gateway.v1 import gateway_service_pb2_grpc as rpc
from carrel.api.runs.v1.run_pb2 import Agent, Run, RunState
from carrel.api.tools.v1.tool_pb2 import Corpus, Tool, ToolCall
from carrel.errors import CarrelClientError, DeadlineExceeded, LimitExceeded, Unavailable, client_error

__all__ = ["Agent", "Client", "Corpus", "Cursor", "Event", "Run", "RunState", "Tool", "ToolCall"]

JSON: TypeAlias = Any
T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
UPLOAD_SECONDS = 600.0
STREAM_SECONDS = 3660.0
"""Longer than the server's own greatest age of a stream, so that the server ends it first, with a reason."""

_ATTEMPTS = 4
_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 2.0

_OPTIONS = [
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    # A gateway that is replaced is back within a second; the defaults would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A line that died without a word is found out within a minute.
    ("grpc.keepalive_time_ms", 30_000),
]


class _Batch(Protocol):
    """A message of a stream of events."""

    @property
    def events(self) -> Sequence[Event]: ...
    @property
    def position(self) -> Cursor: ...


class Client:
    """A user's connection to Carrel; made and used within one event loop, safe for many calls at once.

    `token` is an API key or a JWT. Without `credentials` the line is not encrypted: for this machine only.
    Every call fails with CarrelClientError or one of its subclasses (see carrel.errors); reads and starts are tried again
    for a moment while the gateway is away.
    """

    def __init__(
        self,
        address: str,
        token: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        call_seconds: float = 30.0,
    ) -> None:
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        self._stub: rpc.GatewayServiceAsyncStub = rpc.GatewayServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._call_seconds = call_seconds

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
            request_id=request_id or str(uuid.uuid4()),
            agent=agent,
            input_json=json.dumps(input, ensure_ascii=False, separators=(",", ":")),
            thread_id=thread_id,
        )
        return (await self._read(self._stub.StartRun, request)).run

    async def get_run(self, run_id: str) -> Run:
        """A run with its input and result."""
        return (await self._read(self._stub.GetRun, pb.GetRunRequest(run_id=run_id))).run

    async def list_runs(
        self, *, states: Sequence[RunState] = (), thread_id: str = "", page_size: int = 0
    ) -> AsyncIterator[Run]:
        """The user's runs, newest first, without their results; pages are fetched as they are needed."""
        request = pb.ListRunsRequest(states=states, thread_id=thread_id, page_size=page_size)
        while True:
            page = await self._read(self._stub.ListRuns, request)
            for run in page.runs:
                yield run
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def cancel_run(self, run_id: str, reason: str = "") -> Run:
        """Asks a run to stop and returns it as it is now; `watch_run` or `get_run` tells when it has."""
        return (await self._once(self._stub.CancelRun, pb.CancelRunRequest(run_id=run_id, reason=reason))).run

    def watch_run(self, run_id: str, after: Cursor | None = None) -> AsyncIterator[Event]:
        """The events of one run from its beginning, or after a cursor, until its final event. Goes on by itself when the line breaks."""

        def opened(position: Cursor | None) -> grpc.aio.UnaryStreamCall[Any, pb.WatchRunResponse]:
            request = pb.WatchRunRequest(run_id=run_id, after=position)
            return self._stub.WatchRun(request, metadata=self._metadata, timeout=STREAM_SECONDS)

        return self._followed(opened, after, ends=True)

    def subscribe(
        self, after: Cursor | None = None, *, run_id: str = "", thread_id: str = "", types: Sequence[str] = ()
    ) -> AsyncIterator[Event]:
        """The user's events after a cursor, then live, without end: each once, in order, none missing.

        Goes on by itself when the line breaks. Fails with HistoryTruncated when the cursor is older than what is kept.
        Whoever leaves early should close it: `async with aclosing(client.subscribe()) as events`.
        """
        wanted = EventFilter(run_id=run_id, thread_id=thread_id, types=types)

        def opened(position: Cursor | None) -> grpc.aio.UnaryStreamCall[Any, pb.SubscribeResponse]:
            request = pb.SubscribeRequest(after=position, filter=wanted)
            return self._stub.Subscribe(request, metadata=self._metadata, timeout=STREAM_SECONDS)

        return self._followed(opened, after, ends=False)

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
        return await self._read(self._stub.ListEvents, request)

    async def list_agents(self) -> list[Agent]:
        """The agents that can be started, by name."""
        return list((await self._read(self._stub.ListAgents, pb.ListAgentsRequest())).agents)

    async def list_tools(self) -> list[Tool]:
        """The tools that the user's agents may use now, by name."""
        return list((await self._read(self._stub.ListTools, pb.ListToolsRequest())).tools)

    async def list_tool_calls(self, run_id: str = "", *, page_size: int = 0) -> AsyncIterator[ToolCall]:
        """The user's tool calls, newest first, of one run or of all; pages are fetched as they are needed."""
        request = pb.ListToolCallsRequest(run_id=run_id, page_size=page_size)
        while True:
            page = await self._read(self._stub.ListToolCalls, request)
            for tool_call in page.tool_calls:
                yield tool_call
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def upload_corpus(self, name: str, source: Path | str | bytes, media_type: str = "text/csv") -> Corpus:
        """Stores a file, given by its path or as bytes, under a name; other content under the same name is replaced."""
        chunks = _chunks_of_bytes(source) if isinstance(source, bytes) else _chunks_of_file(Path(source))
        first = await asyncio.to_thread(next, chunks, b"")  # a file that cannot be read fails before the call begins
        call = self._stub.UploadCorpus(metadata=self._metadata, timeout=UPLOAD_SECONDS)
        try:
            await _send_upload(call, pb.UploadHeader(name=name, media_type=media_type), first, chunks)
            return (await call).corpus
        except grpc.aio.AioRpcError as error:
            raise client_error(error) from None
        finally:
            call.cancel()

    async def list_corpora(self, *, page_size: int = 0) -> AsyncIterator[Corpus]:
        """The user's corpora by name; pages are fetched as they are needed."""
        request = pb.ListCorporaRequest(page_size=page_size)
        while True:
            page = await self._read(self._stub.ListCorpora, request)
            for corpus in page.corpora:
                yield corpus
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def delete_corpus(self, name: str) -> None:
        """Deletes a corpus and its bytes."""
        await self._once(self._stub.DeleteCorpus, pb.DeleteCorpusRequest(name=name))

    async def _once(self, method: Callable[..., Awaitable[T]], request: object, seconds: float | None = None) -> T:
        """One call that is not repeated: whether a lost one was done is not known."""
        timeout = self._call_seconds if seconds is None else seconds
        try:
            return await method(request, metadata=self._metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise client_error(error) from None

    async def _read(self, method: Callable[..., Awaitable[T]], request: object) -> T:
        """A call that is safe to repeat: a few attempts while the gateway is away, all within the time of one call."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._call_seconds
        delays = _delays()
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._once(method, request, end - clock())
            except Unavailable:
                await asyncio.sleep(min(next(delays), max(0.0, end - clock())))
        return await self._once(method, request, max(0.0, end - clock()))

    async def _followed(
        self, opened: Callable[[Cursor | None], Any], position: Cursor | None, *, ends: bool
    ) -> AsyncIterator[Event]:
        """The events of a stream that is opened again after the last position whenever it breaks."""
        delays = _delays()
        while True:
            try:
                async with aclosing(_batches(opened(position))) as batches:
                    async for batch in batches:
                        delays = _delays()  # the line works: the next break begins with a short wait again
                        for event in batch.events:
                            position = event.cursor
                            yield event
                            if ends and event.final:
                                return
                        if batch.HasField("position"):
                            position = batch.position
                if ends:
                    return
            except CarrelClientError as error:
                if not _resumable(error):
                    raise
            await asyncio.sleep(next(delays))


def _resumable(error: CarrelClientError) -> bool:
    """Whether a stream that ended so goes on after its last position."""
    return isinstance(error, Unavailable | DeadlineExceeded) or (
        isinstance(error, LimitExceeded) and error.reason == "SLOW_READER"
    )


def _delays() -> Iterator[float]:
    """How long to wait before each further attempt, in seconds; spread, so that many clients do not come back at once."""
    delay = _FIRST_DELAY_SECONDS
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, _MAX_DELAY_SECONDS)


async def _batches(call: Any) -> AsyncIterator[Any]:
    try:
        async for message in call:
            yield message
    except grpc.aio.AioRpcError as error:
        raise client_error(error) from None
    finally:
        call.cancel()  # a stream that is left and not cancelled keeps its memory


async def _send_upload(call: Any, header: pb.UploadHeader, first: bytes, chunks: Iterator[bytes]) -> None:
    try:
        await call.write(pb.UploadCorpusRequest(header=header))
        chunk = first
        while chunk:
            await call.write(pb.UploadCorpusRequest(chunk=chunk))
            chunk = await asyncio.to_thread(next, chunks, b"")
        await call.done_writing()
    except asyncio.InvalidStateError:
        return  # it ended before all was sent; its status says why


def _chunks_of_bytes(content: bytes) -> Iterator[bytes]:
    for begin in range(0, len(content), CHUNK_BYTES):
        yield content[begin : begin + CHUNK_BYTES]


def _chunks_of_file(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
