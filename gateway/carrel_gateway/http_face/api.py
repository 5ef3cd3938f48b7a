"""What is done for a request to /v1: it becomes a message, the answer becomes JSON. Which path is whose stands in paths.py, the rules
are in the services behind."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from carrel.api.events.v1.event_pb2 import EventFilter
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_gateway.admission import Admission
from carrel_gateway.contexts import Contexts
from carrel_gateway.http_face import reading
from carrel_gateway.http_face.downloads import file_answer
from carrel_gateway.http_face.forms import to_message
from carrel_gateway.http_face.json_form import ApiResponse, position_text, to_json
from carrel_gateway.http_face.layers import asker_of
from carrel_gateway.http_face.operation import REQUEST_ID, Operation
from carrel_gateway.http_face.sse import event_stream
from carrel_gateway.methods import response_type
from carrel_gateway.operations import Operations
from carrel_gateway.reissue import Reissue

CHUNK_BYTES = 1024 * 1024
UPLOAD_SECONDS = 600.0


class Api:
    """`answer` does what a message alone can say; the other methods are operations that take more.

    `call_seconds` is the time of a unary call, `stream_seconds` that of a stream.
    """

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

    async def answer(self, operation: Operation, request: Request) -> Response:
        """The operation's answer to a request."""
        if operation.own is not None:
            return await operation.own(self, request)
        values = {**await self._given(operation, request), **request.path_params}
        found = await self._forward(request, operation.method, to_message(values, operation.request))
        if not operation.response.DESCRIPTOR.fields:
            return Response(status_code=204)
        return ApiResponse(to_json(getattr(found, operation.answer) if operation.answer else found), operation.status)

    async def _given(self, operation: Operation, request: Request) -> dict[str, Any]:
        """What the body or the query says; what they do not mention is not there."""
        asked = reading.query(request, operation.query)
        if operation.body is None:
            given = asked.model_dump(exclude_unset=True)
            return given | {field: given.pop(name) for field, name in operation.renamed.items() if name in given}
        optional = not operation.required
        body = await reading.json_body(request, operation.body, self._call_seconds, optional=optional)
        given = {**operation.defaults, **body.model_dump(exclude_unset=True)}
        if operation.repeatable:
            given[REQUEST_ID] = _request_id(request, given.get(REQUEST_ID, ""))
        return given

    async def watch_run(self, request: Request) -> Response:
        """GET /v1/runs/{run_id}/events."""
        asked = reading.query(request, reading.AfterQuery)
        wanted = pb.WatchRunRequest(run_id=request.path_params["run_id"], after=_begin(request, asked.after))
        current = self._reissue(request).current
        return await self._streamed(
            request,
            "WatchRun",
            lambda signed: self._operations.watch_run(wanted, signed, self._stream_seconds, current),
        )

    async def subscribe(self, request: Request) -> Response:
        """GET /v1/events."""
        asked = reading.query(request, reading.EventsQuery)
        wanted = pb.SubscribeRequest(after=_begin(request, asked.after), filter=_filter(asked))
        encoded = wanted.SerializeToString()
        return await self._streamed(
            request, "Subscribe", lambda signed: self._operations.subscribe(encoded, signed, self._stream_seconds)
        )

    async def list_events(self, request: Request) -> Response:
        """GET /v1/events/page."""
        asked = reading.query(request, reading.EventPageQuery)
        wanted = pb.ListEventsRequest(
            after=reading.cursor(asked.after), filter=_filter(asked), page_size=asked.page_size
        )
        answer: Any = await self._forward(request, "ListEvents", wanted)
        return ApiResponse({**to_json(answer), "next": position_text(answer.position)})

    async def upload_corpus(self, request: Request) -> Response:
        """PUT /v1/corpora/{name}."""
        asked = reading.query(request, reading.UploadQuery)
        media_type = reading.media_type(request)
        header = pb.UploadHeader(name=request.path_params["name"], media_type=media_type, **asked.model_dump())
        asker = asker_of(request.scope)
        try:
            with self._admission.call("UploadCorpus", asker.user):
                async with asyncio.timeout(UPLOAD_SECONDS):
                    parts = _parts(request, header)
                    answer = await self._operations.upload_corpus(parts, asker.signed_context, UPLOAD_SECONDS)
        except TimeoutError:
            raise CarrelError(Kind.TIMEOUT, "DEADLINE_EXCEEDED", "The upload took too long.") from None
        return ApiResponse(to_json(pb.UploadCorpusResponse.FromString(answer).corpus))

    async def download_corpus(self, request: Request) -> Response:
        """GET /v1/corpora/{name}/content."""
        asked = reading.query(request, reading.DownloadQuery)
        wanted = pb.DownloadCorpusRequest(name=request.path_params["name"], **asked.model_dump()).SerializeToString()
        messages = self._reissue(request).stream(
            lambda signed: self._operations.download_corpus(wanted, signed, UPLOAD_SECONDS)
        )
        admitted = self._admission.messages("DownloadCorpus", asker_of(request.scope).user, messages)
        return await file_answer(admitted, asked.offset)

    async def _forward(self, request: Request, method: str, wanted: Message) -> Message:
        encoded, seconds = wanted.SerializeToString(), self._call_seconds
        with self._admission.call(method, asker_of(request.scope).user):
            answer = await self._reissue(request).call(
                lambda signed: self._operations.forward(method, encoded, signed, seconds)
            )
        return response_type(method).FromString(answer)

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
        raise invalid(REQUEST_ID, "request_id and Idempotency-Key differ; give one of them.")
    return in_body or in_header or str(uuid.uuid4())


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
