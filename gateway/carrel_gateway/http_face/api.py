"""What is done at each path of /v1: a request becomes a message, the answer becomes JSON. Which path is whose stands in paths.py, the
rules are in the services behind."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from carrel.api.events.v1.event_pb2 import EventFilter
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.runs.v1.run_pb2 import RunState
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_gateway.admission import Admission
from carrel_gateway.contexts import Contexts
from carrel_gateway.http_face import reading
from carrel_gateway.http_face.json_form import ApiResponse, position_text, to_json
from carrel_gateway.http_face.layers import asker_of
from carrel_gateway.http_face.sse import event_stream
from carrel_gateway.operations import Operations
from carrel_gateway.reissue import Reissue

CHUNK_BYTES = 1024 * 1024
UPLOAD_SECONDS = 600.0
_STATE_PREFIX = "RUN_STATE_"

A = TypeVar("A", bound=Message)


class Api:
    """One method for each path. `call_seconds` is the time of a unary call, `stream_seconds` that of a stream."""

    def __init__(
        self,
        operations: Operations,
        contexts: Contexts,
        admission: Admission,
        call_seconds: float,
        stream_seconds: float,
    ) -> None:
        self._operations = operations
        self._contexts = contexts
        self._admission = admission
        self._call_seconds = call_seconds
        self._stream_seconds = stream_seconds

    async def start_run(self, request: Request) -> Response:
        """Accepts a run; the same `request_id` or Idempotency-Key again gives the same run."""
        body = await reading.json_body(request, reading.StartRunBody, self._call_seconds)
        wanted = pb.StartRunRequest(
            request_id=_request_id(request, body.request_id),
            agent=body.agent,
            input_json=json.dumps(body.input, ensure_ascii=False, separators=(",", ":")),
            thread_id=body.thread_id,
        )
        answer = await self._forward(request, "StartRun", wanted, pb.StartRunResponse)
        return ApiResponse(to_json(answer.run), 201)

    async def get_run(self, request: Request) -> Response:
        """A run with its input and result."""
        reading.query(request, reading.NoQuery)
        wanted = pb.GetRunRequest(run_id=request.path_params["run_id"])
        answer = await self._forward(request, "GetRun", wanted, pb.GetRunResponse)
        return ApiResponse(to_json(answer.run))

    async def list_runs(self, request: Request) -> Response:
        """The runs, newest first, by page."""
        asked = reading.query(request, reading.RunsQuery)
        wanted = pb.ListRunsRequest(
            page_size=asked.page_size,
            page_token=asked.page_token,
            states=[_state(name) for name in asked.state],
            thread_id=asked.thread_id,
        )
        return ApiResponse(to_json(await self._forward(request, "ListRuns", wanted, pb.ListRunsResponse)))

    async def cancel_run(self, request: Request) -> Response:
        """Asks a run to stop and gives it as it is now; the body may be absent."""
        body = await reading.json_body(request, reading.CancelRunBody, self._call_seconds, optional=True)
        wanted = pb.CancelRunRequest(run_id=request.path_params["run_id"], reason=body.reason)
        answer = await self._forward(request, "CancelRun", wanted, pb.CancelRunResponse)
        return ApiResponse(to_json(answer.run))

    async def watch_run(self, request: Request) -> Response:
        """The events of one run as server-sent events until the final one."""
        asked = reading.query(request, reading.AfterQuery)
        wanted = pb.WatchRunRequest(run_id=request.path_params["run_id"], after=_begin(request, asked.after))
        return await self._streamed(
            request, "WatchRun", lambda signed: self._operations.watch_run(wanted, signed, self._stream_seconds)
        )

    async def subscribe(self, request: Request) -> Response:
        """The events after `Last-Event-ID` or `after`, then live, as server-sent events without end."""
        asked = reading.query(request, reading.EventsQuery)
        wanted = pb.SubscribeRequest(after=_begin(request, asked.after), filter=_filter(asked))
        encoded = wanted.SerializeToString()
        return await self._streamed(
            request, "Subscribe", lambda signed: self._operations.subscribe(encoded, signed, self._stream_seconds)
        )

    async def list_events(self, request: Request) -> Response:
        """A page of events after `after`; `next` is the `after` of the next page."""
        asked = reading.query(request, reading.EventPageQuery)
        wanted = pb.ListEventsRequest(
            after=reading.cursor(asked.after), filter=_filter(asked), page_size=asked.page_size
        )
        answer = await self._forward(request, "ListEvents", wanted, pb.ListEventsResponse)
        return ApiResponse({**to_json(answer), "next": position_text(answer.position)})

    async def list_agents(self, request: Request) -> Response:
        """The agents that can be started."""
        reading.query(request, reading.NoQuery)
        answer = await self._forward(request, "ListAgents", pb.ListAgentsRequest(), pb.ListAgentsResponse)
        return ApiResponse(to_json(answer))

    async def list_tools(self, request: Request) -> Response:
        """The tools that the user's agents may use now."""
        reading.query(request, reading.NoQuery)
        answer = await self._forward(request, "ListTools", pb.ListToolsRequest(), pb.ListToolsResponse)
        return ApiResponse(to_json(answer))

    async def list_tool_calls(self, request: Request) -> Response:
        """The tool calls, newest first, by page."""
        wanted = pb.ListToolCallsRequest(**reading.query(request, reading.ToolCallsQuery).model_dump())
        return ApiResponse(to_json(await self._forward(request, "ListToolCalls", wanted, pb.ListToolCallsResponse)))

    async def create_thread(self, request: Request) -> Response:
        """A new thread; the same `request_id` or Idempotency-Key again gives the same thread."""
        body = await reading.json_body(request, reading.CreateThreadBody, self._call_seconds, optional=True)
        wanted = pb.CreateThreadRequest(request_id=_request_id(request, body.request_id), title=body.title)
        answer = await self._forward(request, "CreateThread", wanted, pb.CreateThreadResponse)
        return ApiResponse(to_json(answer.thread), 201)

    async def get_thread(self, request: Request) -> Response:
        """A thread."""
        reading.query(request, reading.NoQuery)
        wanted = pb.GetThreadRequest(thread_id=request.path_params["thread_id"])
        answer = await self._forward(request, "GetThread", wanted, pb.GetThreadResponse)
        return ApiResponse(to_json(answer.thread))

    async def list_threads(self, request: Request) -> Response:
        """The threads, newest first, by page."""
        wanted = pb.ListThreadsRequest(**reading.query(request, reading.PageQuery).model_dump())
        return ApiResponse(to_json(await self._forward(request, "ListThreads", wanted, pb.ListThreadsResponse)))

    async def rename_thread(self, request: Request) -> Response:
        """Gives a thread another title."""
        body = await reading.json_body(request, reading.RenameThreadBody, self._call_seconds)
        wanted = pb.RenameThreadRequest(thread_id=request.path_params["thread_id"], title=body.title)
        answer = await self._forward(request, "RenameThread", wanted, pb.RenameThreadResponse)
        return ApiResponse(to_json(answer.thread))

    async def delete_thread(self, request: Request) -> Response:
        """Takes a thread off the list; its runs stay."""
        reading.query(request, reading.NoQuery)
        wanted = pb.DeleteThreadRequest(thread_id=request.path_params["thread_id"])
        await self._forward(request, "DeleteThread", wanted, pb.DeleteThreadResponse)
        return Response(status_code=204)

    async def list_corpora(self, request: Request) -> Response:
        """The corpora by name, by page."""
        wanted = pb.ListCorporaRequest(**reading.query(request, reading.PageQuery).model_dump())
        return ApiResponse(to_json(await self._forward(request, "ListCorpora", wanted, pb.ListCorporaResponse)))

    async def upload_corpus(self, request: Request) -> Response:
        """Stores the body, a file, under the name; it is passed on as it comes."""
        reading.query(request, reading.NoQuery)
        header = pb.UploadHeader(name=request.path_params["name"], media_type=reading.media_type(request))
        asker = asker_of(request.scope)
        try:
            with self._admission.call("UploadCorpus", asker.user):
                async with asyncio.timeout(UPLOAD_SECONDS):
                    parts = _parts(request, header)
                    answer = await self._operations.upload_corpus(parts, asker.signed_context, UPLOAD_SECONDS)
        except TimeoutError:
            raise CarrelError(Kind.TIMEOUT, "DEADLINE_EXCEEDED", "The upload took too long.") from None
        return ApiResponse(to_json(pb.UploadCorpusResponse.FromString(answer).corpus))

    async def delete_corpus(self, request: Request) -> Response:
        """Deletes a corpus and its bytes."""
        reading.query(request, reading.NoQuery)
        wanted = pb.DeleteCorpusRequest(name=request.path_params["name"])
        await self._forward(request, "DeleteCorpus", wanted, pb.DeleteCorpusResponse)
        return Response(status_code=204)

    async def _forward(self, request: Request, method: str, wanted: Message, answer: type[A]) -> A:
        encoded, seconds = wanted.SerializeToString(), self._call_seconds
        with self._admission.call(method, asker_of(request.scope).user):
            return answer.FromString(
                await self._reissue(request).call(
                    lambda signed: self._operations.forward(method, encoded, signed, seconds)
                )
            )

    async def _streamed(
        self, request: Request, method: str, make: Callable[[bytes], AsyncGenerator[bytes, None]]
    ) -> Response:
        messages = self._reissue(request).stream(make)
        return await event_stream(self._admission.messages(method, asker_of(request.scope).user, messages))

    def _reissue(self, request: Request) -> Reissue:
        signed_context = asker_of(request.scope).signed_context
        return Reissue(self._contexts, request.headers.get("authorization"), signed_context)


def _request_id(request: Request, in_body: str) -> str:
    in_header = request.headers.get("idempotency-key", "")
    if in_header and in_body and in_header != in_body:
        raise invalid("request_id", "request_id and Idempotency-Key differ; give one of them.")
    return in_body or in_header or str(uuid.uuid4())


def _state(name: str) -> RunState.ValueType:
    full = name if name.startswith(_STATE_PREFIX) else _STATE_PREFIX + name.upper()
    try:
        return RunState.Value(full)
    except ValueError:
        raise invalid("state", f"There is no state {name}; use one as it stands in a run.") from None


def _begin(request: Request, after: str) -> Any:
    """The cursor to begin after. A browser that comes back repeats the first address: what it saw last is in the header."""
    last_event_id = request.headers.get("last-event-id", "")
    return reading.cursor(last_event_id, "Last-Event-ID") if last_event_id else reading.cursor(after)


def _filter(asked: reading.EventsQuery) -> EventFilter:
    return EventFilter(run_id=asked.run_id, thread_id=asked.thread_id, types=asked.type)


async def _parts(request: Request, header: pb.UploadHeader) -> AsyncGenerator[bytes, None]:
    """The messages of an upload: the header, then the body in pieces as it arrives."""
    yield pb.UploadCorpusRequest(header=header).SerializeToString()
    async for piece in request.stream():
        for begin in range(0, len(piece), CHUNK_BYTES):
            yield pb.UploadCorpusRequest(chunk=piece[begin : begin + CHUNK_BYTES]).SerializeToString()
