"""What is done around every HTTP request, as the layers of the gRPC server do it around calls: log, telemetry, errors, identity."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger
from carrel_gateway.contexts import Asker, Contexts
from carrel_gateway.credentials import one_authorization
from carrel_gateway.http_face.problems import HttpRefusal, problem

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json"})
"""Everything else wants a credential, what does not exist too: a path that somebody forgets to protect is closed."""

_GONE = 499
"""The status in the log of a request whose client left; nginx calls it so."""


@dataclass(slots=True)
class HttpCall:
    """What the layers learn about a request."""

    call_id: str = field(default_factory=lambda: secrets.token_hex(8))
    asker: Asker | None = None
    status: int = 0


def call_of(scope: Scope) -> HttpCall:
    """The call that the outermost layer has begun."""
    call: HttpCall = scope["carrel.call"]
    return call


def asker_of(scope: Scope) -> Asker:
    """Who asks; only behind the identity layer."""
    asker = call_of(scope).asker
    if asker is None:
        raise LookupError("this path demands no credential")
    return asker


def _route(scope: Scope) -> str:
    """The path as it is declared: what is in its place holders belongs to the user."""
    return str(getattr(scope.get("route"), "path", ""))


class AccessLog:
    """Writes `http.finished`, never with content, query or tokens."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope["carrel.call"] = HttpCall()
        begin = time.perf_counter()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            user = call.asker.user if call.asker else None
            get_logger().info(
                "http.finished",
                method=scope["method"],
                route=_route(scope),
                status=call.status or _GONE,
                ms=round((time.perf_counter() - begin) * 1e3, 2),
                call_id=call.call_id,
                tenant_id=user.tenant_id if user else "",
                user_id=user.user_id if user else "",
            )


class Telemetry:
    """A span and `http.server.request.duration` in seconds, under the names of OpenTelemetry's HTTP conventions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tracer = trace.get_tracer("carrel")
        self._duration = metrics.get_meter("carrel").create_histogram("http.server.request.duration", unit="s")
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        parent = self._propagator.extract(dict(Headers(scope=scope)))
        with self._tracer.start_as_current_span(scope["method"], parent, SpanKind.SERVER) as span:
            try:
                await self._app(scope, receive, send)
            finally:
                attributes = {
                    "http.request.method": scope["method"],
                    "http.route": _route(scope),
                    "http.response.status_code": call_of(scope).status,
                }
                span.update_name(f"{scope['method']} {_route(scope)}")
                span.set_attributes(attributes)
                if call_of(scope).status >= 500:
                    span.set_status(StatusCode.ERROR)
                self._duration.record(time.perf_counter() - begin, attributes)


class ErrorMask:
    """Answers a failed request with a problem; what is our fault leaves as an id, and its story stays in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
            return
        except ClientDisconnect:
            return
        except CarrelError as error:
            answer = error
        except Exception:
            error_id = secrets.token_hex(8)
            get_logger().exception("http.failed", error_id=error_id, call_id=call_of(scope).call_id)
            message = f"Something went wrong on our side; the log knows it as {error_id}."
            answer = CarrelError(Kind.INTERNAL, "INTERNAL", message, metadata={"error_id": error_id})
        if not call_of(scope).status:  # else the answer has begun, and all that is left is to break it off
            await problem(answer)(scope, receive, send)


class HeadLimit:
    """Refuses a request whose head is too large. The parser cuts off only what is still incomplete: a large one that came in one
    piece would pass it."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        if size + sum(len(name) + len(value) for name, value in scope["headers"]) > self._most_bytes:
            raise HttpRefusal(
                431,
                f"The request's head has more than {self._most_bytes} bytes; send less.",
                headers={"connection": "close"},
            )
        await self._app(scope, receive, send)


class Identity:
    """Lets a request through when its credential is good. Nothing else that a client says of itself is looked at."""

    def __init__(self, app: ASGIApp, contexts: Contexts) -> None:
        self._app = app
        self._contexts = contexts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN_PATHS:
            given = one_authorization(Headers(scope=scope).getlist("authorization"))
            call_of(scope).asker = await self._contexts.of(given, scope["client"][0] if scope["client"] else "")
        await self._app(scope, receive, send)
