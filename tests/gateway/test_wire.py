"""The gateway passes bytes on unread: its messages must be those of the services behind, field for field."""

from __future__ import annotations

from typing import Any

import pytest

from carrel.api.context.v1 import (
    context_service_pb2,
    directory_service_pb2,
    revocation_service_pb2,
    session_service_pb2,
    thread_service_pb2,
)
from carrel.api.events.v1 import event_service_pb2
from carrel.api.runs.v1 import run_service_pb2, schedule_service_pb2
from carrel.api.tools.v1 import policy_service_pb2, tool_service_pb2
from carrel_gateway.backends import DOWNLOAD, SUBSCRIBE, UNARY, UPLOAD, Route
from carrel_gateway.methods import METHODS

ROUTES: dict[str, Route] = {
    **UNARY,
    "Subscribe": SUBSCRIBE,
    "WatchRun": SUBSCRIBE,
    "UploadCorpus": UPLOAD,
    "DownloadCorpus": DOWNLOAD,
}


FILES = {
    f"{module.DESCRIPTOR.package}.{service}": module.DESCRIPTOR
    for module in (
        context_service_pb2,
        directory_service_pb2,
        event_service_pb2,
        policy_service_pb2,
        revocation_service_pb2,
        run_service_pb2,
        schedule_service_pb2,
        session_service_pb2,
        thread_service_pb2,
        tool_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name
}


def behind(route: Route) -> Any:
    service, _, method = route.path[1:].partition("/")
    return FILES[service].services_by_name[service.rpartition(".")[2]].methods_by_name[method]


def shape(message: Any) -> list[Any]:
    """What a message is on the wire."""
    fields = []
    for field in message.fields:
        kind = field.message_type or field.enum_type
        inner: Any = kind.full_name if kind is not None else field.type
        if kind is not None and field.message_type is not None and kind.file.package.startswith("carrel.api."):
            inner = shape(kind) if kind.full_name not in SHARED else kind.full_name
        oneof = field.containing_oneof.name if field.containing_oneof else ""
        fields.append((field.number, field.name, field.is_repeated, inner, oneof))
    return fields


SHARED = {"carrel.api.events.v1.Event", "carrel.api.runs.v1.Run"}


def test_every_method_of_the_gateway_is_answered_somewhere() -> None:
    assert sorted(ROUTES) == sorted(METHODS)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "WatchRun"])
def test_the_messages_of_a_method_are_those_of_the_method_behind(name: str) -> None:
    here, there = METHODS[name], behind(ROUTES[name])
    assert shape(here.input_type) == shape(there.input_type)
    assert shape(here.output_type) == shape(there.output_type)
    assert (here.client_streaming, here.server_streaming) == (there.client_streaming, there.server_streaming)


def test_what_a_watch_answers_is_what_a_subscription_answers() -> None:
    here = METHODS["WatchRun"].output_type
    assert shape(here) == shape(behind(SUBSCRIBE).output_type)
