"""Connections of the HTTP face: how many there may be, and how long one may take to say what it wants. It knows no path.

uvicorn itself waits for ever for the head of a request, and one byte now and then keeps a connection open.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from carrel_gateway.http_face.problems import HttpRefusal, problem_document

MAX_HEAD_BYTES = 32 * 1024
"""Of a request: its line and its headers."""
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1024 * 1024


def guarded(most_connections: int, head_seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol with these limits."""

    class Guarded(_Guarded):
        _most_connections = most_connections
        _head_seconds = head_seconds

    return Guarded


class _Guarded(H11Protocol):
    """Closes a connection that is one too many, and one whose next request's head does not come in time."""

    _most_connections: int
    _head_seconds: float
    _head_timer: asyncio.TimerHandle | None = None
    _may_still_come: int | None = None
    """How many bytes of a refused request are still read and thrown away; None while none is refused."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most_connections:
            transport.abort()
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._may_still_come is not None:  # the answer is given
            self._may_still_come -= len(data)
            if self._may_still_come < 0:
                self.transport.abort()
            return
        super().data_received(data)
        if self._may_still_come is not None:
            return
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._wait_for_head()
        else:
            self._head_came()

    def send_400_response(self, msg: str) -> None:
        """Says the same as a problem; the connection cannot go on, because where the next request would begin is not known."""
        refusal = HttpRefusal(400, "What came is no HTTP request, or its head is too large.")
        body = json.dumps(problem_document(refusal)).encode()
        headers = [("content-type", "application/problem+json"), ("connection", "close"), ("cache-control", "no-store")]
        events: list[Any] = [
            h11.Response(
                status_code=400, headers=[*headers, ("content-length", str(len(body)))], reason=b"Bad Request"
            ),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer has begun, and can only be broken off
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self._linger()

    def _linger(self) -> None:
        """Ends our half, and reads on for a moment what is still under way: a connection that is closed over unread bytes is reset,
        and the reset overtakes the answer."""
        self._may_still_come = _LINGER_BYTES
        self._head_came()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._head_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds, self.transport.abort)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
