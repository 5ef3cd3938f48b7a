"""Every path of /v1, in one place: what it takes, what it answers, and the method of Api that does it.

The application's routes are made from this, and the OpenAPI document is written from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from carrel.api.context.v1.thread_pb2 import Thread
from carrel.api.events.v1.event_pb2 import Event
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.runs.v1.run_pb2 import Run
from carrel.api.tools.v1.tool_pb2 import Corpus
from carrel_gateway.http_face import reading
from carrel_gateway.http_face.api import Api

Endpoint = Callable[[Api, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Path:
    """One operation. `answer` is the message whose JSON form comes back; None for none, and then `status` is 204."""

    verb: str
    path: str
    endpoint: Endpoint
    answer: type[Message] | None
    query: type[BaseModel] = reading.NoQuery
    body: type[BaseModel] | None = None
    body_optional: bool = False
    status: int = 200
    streams: bool = False
    """The answer is server-sent events, each with the JSON of `answer` as its data."""
    uploads: bool = False
    """The body is a file."""
    with_next: bool = False
    """Beside the message's fields there is `next`, the text to go on after."""
    repeatable: bool = False
    """An Idempotency-Key makes it safe to repeat."""

    @property
    def name(self) -> str:
        """Its name in the document: that of the method."""
        return self.endpoint.__name__


PATHS = (
    Path("POST", "/v1/runs", Api.start_run, Run, body=reading.StartRunBody, status=201, repeatable=True),
    Path("GET", "/v1/runs", Api.list_runs, pb.ListRunsResponse, reading.RunsQuery),
    Path("GET", "/v1/runs/{run_id}", Api.get_run, Run),
    Path("POST", "/v1/runs/{run_id}/cancel", Api.cancel_run, Run, body=reading.CancelRunBody, body_optional=True),
    Path("GET", "/v1/runs/{run_id}/events", Api.watch_run, Event, reading.AfterQuery, streams=True),
    Path("GET", "/v1/events", Api.subscribe, Event, reading.EventsQuery, streams=True),
    Path("GET", "/v1/events/page", Api.list_events, pb.ListEventsResponse, reading.EventPageQuery, with_next=True),
    Path(
        "POST",
        "/v1/threads",
        Api.create_thread,
        Thread,
        body=reading.CreateThreadBody,
        body_optional=True,
        status=201,
        repeatable=True,
    ),
    Path("GET", "/v1/threads", Api.list_threads, pb.ListThreadsResponse, reading.PageQuery),
    Path("GET", "/v1/threads/{thread_id}", Api.get_thread, Thread),
    Path("PATCH", "/v1/threads/{thread_id}", Api.rename_thread, Thread, body=reading.RenameThreadBody),
    Path("DELETE", "/v1/threads/{thread_id}", Api.delete_thread, None, status=204),
    Path("GET", "/v1/corpora", Api.list_corpora, pb.ListCorporaResponse, reading.PageQuery),
    Path("PUT", "/v1/corpora/{name}", Api.upload_corpus, Corpus, uploads=True),
    Path("DELETE", "/v1/corpora/{name}", Api.delete_corpus, None, status=204),
    Path("GET", "/v1/agents", Api.list_agents, pb.ListAgentsResponse),
    Path("GET", "/v1/tools", Api.list_tools, pb.ListToolsResponse),
    Path("GET", "/v1/tool-calls", Api.list_tool_calls, pb.ListToolCallsResponse, reading.ToolCallsQuery),
)
