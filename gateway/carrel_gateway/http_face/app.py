"""The HTTP application: which path is which method, and the layers around them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from carrel_gateway.contexts import Contexts
from carrel_gateway.http_face.api import Api
from carrel_gateway.http_face.health import Health
from carrel_gateway.http_face.layers import AccessLog, ErrorMask, Identity, Telemetry
from carrel_gateway.http_face.problems import routing_problem


def http_app(api: Api, health: Health, contexts: Contexts) -> Starlette:
    """The application. Its layers, outermost first, stand in the order of the gRPC server's, for the same reasons."""
    app = Starlette(
        routes=routes(api, health),
        middleware=[
            Middleware(AccessLog),
            Middleware(Telemetry),
            Middleware(ErrorMask),
            Middleware(Identity, contexts=contexts),
        ],
        exception_handlers={HTTPException: routing_problem},
    )
    app.router.redirect_slashes = False
    return app


def routes(api: Api, health: Health) -> list[Route]:
    """All paths."""
    return [
        Route("/healthz", health.alive),
        Route("/readyz", health.ready),
        Route("/v1/runs", api.start_run, methods=["POST"]),
        Route("/v1/runs", api.list_runs),
        Route("/v1/runs/{run_id}", api.get_run),
        Route("/v1/runs/{run_id}/cancel", api.cancel_run, methods=["POST"]),
        Route("/v1/runs/{run_id}/events", api.watch_run),
        Route("/v1/events", api.subscribe),
        Route("/v1/events/page", api.list_events),
        Route("/v1/threads", api.create_thread, methods=["POST"]),
        Route("/v1/threads", api.list_threads),
        Route("/v1/threads/{thread_id}", api.get_thread),
        Route("/v1/threads/{thread_id}", api.rename_thread, methods=["PATCH"]),
        Route("/v1/threads/{thread_id}", api.delete_thread, methods=["DELETE"]),
        Route("/v1/corpora", api.list_corpora),
        Route("/v1/corpora/{name}", api.upload_corpus, methods=["PUT"]),
        Route("/v1/corpora/{name}", api.delete_corpus, methods=["DELETE"]),
        Route("/v1/agents", api.list_agents),
        Route("/v1/tools", api.list_tools),
        Route("/v1/tool-calls", api.list_tool_calls),
    ]
