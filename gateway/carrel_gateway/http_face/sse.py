"""Server-sent events: the messages of a stream, each event with its position as id, so that a browser goes on where it was.

Written on ASGI: sse-starlette patches uvicorn's signal handling when it is imported and polls for its end; our streams end by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from carrel.api.events.v1 import event_service_pb2 as events
from carrel_chassis.errors import CarrelError, Kind
from carrel_gateway.http_face.json_form import encoded, position_text, to_json
from carrel_gateway.http_face.problems import problem_document

HEARTBEAT_SECONDS = 15.0
RETRY_MS = 1000
_FIRST_SECONDS = 0.5
"""How long the answer waits for a refusal, which then has a status of its own; a quiet stream is opened after this."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]

Messages = AsyncGenerator[bytes, None]


async def event_stream(messages: Messages) -> Response:
    """The response for messages of SubscribeResponse. One that is over before it began is 204: a browser then asks no more."""
    first = _next(messages)
    try:
        done, _ = await asyncio.wait({first}, timeout=_FIRST_SECONDS)
        if done:
            first.result()
    except StopAsyncIteration:
        return Response(status_code=204)
    except BaseException:
        await _close(first, messages)
        raise
    return EventStream(first, messages)


class EventStream(Response):
    """Sends events as they come and a comment when none do, until the stream ends or its reader leaves."""

    def __init__(self, first: asyncio.Future[bytes], messages: Messages) -> None:
        super().__init__()
        self._next = first
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_until_left(receive))
        try:
            if scope["method"] != "HEAD":
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            else:
                sending.cancel()
                await _start(send, more=False)
            if sending.done() and not sending.cancelled():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await _close(self._next, self._messages)

    async def _send_all(self, send: Send) -> None:
        await _start(send, more=True)
        await _write(send, b"retry: %d\n\n" % RETRY_MS)
        while True:
            done, _ = await asyncio.wait({self._next}, timeout=HEARTBEAT_SECONDS)
            if not done:
                await _write(send, b":\n\n")
                continue
            try:
                message = self._next.result()
            except StopAsyncIteration:
                break
            except CarrelError as error:
                await _write(send, _farewell(error))
                break
            await _write(send, encode(message))
            self._next = _next(self._messages)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def encode(message: bytes) -> bytes:
    """The events of a message, and its position when that is past them: an id without data moves a reader on without a sound."""
    batch = events.SubscribeResponse.FromString(message)
    parts = []
    last = 0
    for event in batch.events:
        if event.cursor.offset:  # a piece of a text that is being written has no place in the log
            parts.append(b"id: %d-%d\n" % (event.cursor.epoch, event.cursor.offset))
            last = event.cursor.offset
        parts.append(b"event: %b\ndata: %b\n\n" % (event.type.encode(), encoded(to_json(event))))
    if batch.HasField("position") and batch.position.offset != last:
        parts.append(b":\nid: %b\n\n" % position_text(batch.position).encode())
    return b"".join(parts) or b":\n\n"


def _farewell(error: CarrelError) -> bytes:
    """Why a stream ends early. What passes is a comment, and the reader comes back; what does not is an event called `problem`."""
    if error.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT):
        return f": {error.reason} {error.message}\n\n".encode()
    return b"event: problem\ndata: %b\n\n" % encoded(problem_document(error))


def _next(messages: Messages) -> asyncio.Future[bytes]:
    return asyncio.ensure_future(anext(messages))


async def _close(pending: asyncio.Future[bytes], messages: Messages) -> None:
    """Ends the wait for a message before the generator: one that still runs cannot be closed."""
    pending.cancel()
    await asyncio.wait({pending})
    if not pending.cancelled():
        pending.exception()  # seen: whoever closes has no more use for it
    await messages.aclose()


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, *, more: bool) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    if not more:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _write(send: Send, text: bytes) -> None:
    message: dict[str, Any] = {"type": "http.response.body", "body": text, "more_body": True}
    await send(message)
