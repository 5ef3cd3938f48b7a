"""The HTTP application: which path is which method, and the layers around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from carrel_gateway.contexts import Contexts
from carrel_gateway.http_face import openapi
from carrel_gateway.http_face.api import Api
from carrel_gateway.http_face.connections import MAX_HEAD_BYTES
from carrel_gateway.http_face.health import Health
from carrel_gateway.http_face.layers import AccessLog, ErrorMask, HeadLimit, Identity, Telemetry
from carrel_gateway.http_face.operation import Operation
from carrel_gateway.http_face.paths import OPERATIONS
from carrel_gateway.http_face.problems import routing_problem


def http_app(api: Api, health: Health, contexts: Contexts, cors_origins: Sequence[str] = ()) -> Starlette:
    """The application. Its layers, outermost first, stand in the order of the gRPC server's, for the same reasons."""
    app = Starlette(
        routes=routes(api, health),
        middleware=[
            Middleware(AccessLog),
            Middleware(Telemetry),
            *_cors(cors_origins),
            Middleware(ErrorMask),
            Middleware(HeadLimit, most_bytes=MAX_HEAD_BYTES),
            Middleware(Identity, contexts=contexts),
        ],
        exception_handlers={HTTPException: routing_problem},
    )
    app.router.redirect_slashes = False
    return app


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Lets pages of these origins call with a credential that they hold themselves; no cookie ever counts here.

    Outside of errors and identity: a browser's preflight carries no credential, and pages should see why they are refused.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id", "traceparent"],
            expose_headers=["retry-after"],
            max_age=600,
        )
    ]


def routes(api: Api, health: Health) -> list[Route]:
    """All paths, each once with all its verbs: what a 405 says is allowed must be all of them."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.verb] = operation
    return [
        Route("/healthz", health.alive),
        Route("/readyz", health.ready),
        Route(openapi.PATH, openapi.Document().serve),
        *(Route(path, _by_verb(api, by_verb), methods=list(by_verb)) for path, by_verb in by_path.items()),
    ]


def _by_verb(api: Api, operations: Mapping[str, Operation]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        verb = "GET" if request.method == "HEAD" else request.method
        return await api.answer(operations[verb], request)

    return answer
