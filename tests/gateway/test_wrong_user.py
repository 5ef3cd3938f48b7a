"""Every operation of both faces with the ids of somebody else's things: the same answer as for ids that never were.

The methods are walked from the descriptors and the paths from the table, so that a new one is tried before anybody thinks of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest

from carrel import Client
from carrel_chassis.errors import CarrelError
from carrel_chassis.rpc.status import from_rpc_error
from carrel_gateway.http_face.operation import Operation
from carrel_gateway.http_face.paths import ADMIN, OPERATIONS
from carrel_gateway.methods import METHODS, SERVICES, request_type
from tests.gateway.edge import REQUESTS, bearer, call, http_client
from tests.support.directory import with_role
from tests.support.system import Person, System

OWN = {method.name for method in SERVICES[0].methods} - {"Subscribe", "UploadCorpus"}
"""What a user does for themselves. An upload names only what it makes; a subscription without end has tests of its own."""
ADMINISTRATION = {method.name for method in SERVICES[1].methods}
NEVER = "never-was"
_NAMED = re.compile(r"{(\w+)}")


@dataclass(frozen=True)
class Things:
    """What somebody has, by the names of the fields that ids of it stand in."""

    ids: dict[str, str]

    @property
    def secret(self) -> set[str]:
        """What nobody else may ever see."""
        return {value for field, value in self.ids.items() if field not in ("name", "user_id", "tenant_id", "tool")}


async def things_of(system: System, person: Person) -> Things:
    """One of everything."""
    async with Client(system.addresses["gateway"], person.token) as client:
        thread = await client.create_thread("private")
        corpus = await client.upload_corpus("ledger-of-ada", b"secret\n1\n")
        run = await client.start_run("echo", {"text": "private"}, thread.thread_id)
        await client.wait_for_run(run.run_id)
        sessions = [session.session_id async for session in client.list_sessions() if session.current]
        [tool_call] = [call async for call in client.list_tool_calls(run.run_id)]
    return Things(
        {
            "run_id": run.run_id,
            "thread_id": thread.thread_id,
            "session_id": sessions[0],
            "name": corpus.name,
            "tool_call_id": tool_call.tool_call_id,
            "corpus_id": corpus.corpus_id,
            "tenant_id": person.tenant_id,
            "user_id": person.user_id,
        }
    )


def request_of(method: str, ids: dict[str, str]) -> Any:
    """The method's request with these ids wherever it takes one, also within its filter."""
    request = request_type(method)()
    if method in REQUESTS:
        request.CopyFrom(REQUESTS[method])
    for message in (request, *(getattr(request, name) for name in ("filter",) if hasattr(request, name))):
        for field, value in ids.items():
            if field in message.DESCRIPTOR.fields_by_name:
                setattr(message, field, value)
    return request


async def outcome(edge: grpc.aio.Channel, method: str, who: Person, ids: dict[str, str]) -> tuple[str, str]:
    """How a call ends, and all that its answer says."""
    try:
        answer = await call(edge, method, bearer(who.token), request_of(method, ids).SerializeToString())
    except grpc.aio.AioRpcError as error:
        refusal: CarrelError = from_rpc_error(error)
        return f"{error.code().name} {refusal.reason}", f"{refusal.message} {refusal.metadata} {refusal.fields}"
    return "OK", answer.decode("latin-1")


def without(text: str, ids: dict[str, str]) -> str:
    """The text with the ids blotted out: what is told about one id and another must be the same."""
    for value in sorted(ids.values(), key=len, reverse=True):
        text = text.replace(value, "ID")
    return text


def absent(ids: dict[str, str]) -> dict[str, str]:
    return {field: f"{field.replace('_', '-')}-{NEVER}" for field in ids}


@pytest.fixture
async def adas(system: System, ada: Person) -> Things:
    return await things_of(system, ada)


@pytest.mark.parametrize("method", sorted(OWN))
async def test_anothers_ids_are_worth_what_absent_ids_are(
    edge: grpc.aio.Channel, eve: Person, adas: Things, method: str
) -> None:
    asked = request_of(method, adas.ids).SerializeToString().decode("latin-1")
    kind, told = await outcome(edge, method, eve, adas.ids)
    other, never = await outcome(edge, method, eve, absent(adas.ids))
    if method in ("StartRun", "CreateThread", "CreateSchedule"):  # they make something of Eve's own, whatever they name
        assert not [word for word in adas.secret if word in told and word not in asked]
        return
    assert kind == other
    assert without(told, adas.ids) == without(never, absent(adas.ids))
    assert not [word for word in adas.secret if word in told and word not in asked]


@pytest.mark.parametrize("method", sorted(ADMINISTRATION))
async def test_administration_is_closed_to_users_and_to_administrators_of_other_tenants(
    system: System, edge: grpc.aio.Channel, eve: Person, adas: Things, method: str
) -> None:
    stranger = await with_role(system, "admin")
    assert await outcome(edge, method, eve, adas.ids) == await outcome(edge, method, eve, absent(adas.ids))
    assert (await outcome(edge, method, eve, adas.ids))[0] == "PERMISSION_DENIED SCOPE_MISSING"
    kind, told = await outcome(edge, method, stranger, adas.ids)
    if "tenant_id" in METHODS[method].input_type.fields_by_name:
        assert kind == "PERMISSION_DENIED SCOPE_MISSING"
        assert (kind, told) == await outcome(edge, method, stranger, absent(adas.ids))
    assert not [word for word in adas.secret if word in told]


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if not one.streams], ids=lambda one: one.name)
async def test_the_same_over_http(system: System, eve: Person, adas: Things, operation: Operation) -> None:
    never = absent(adas.ids)
    async with http_client(system, eve.token) as http:
        theirs, nobodys = [await _asked(http, operation, ids) for ids in (adas.ids, never)]
    assert theirs.status_code == nobodys.status_code, theirs.text
    if operation in ADMIN:
        assert (theirs.status_code, theirs.json()["reason"]) == (403, "SCOPE_MISSING")
    elif _NAMED.search(operation.path) and not operation.uploads:  # something of somebody's own
        assert theirs.status_code >= 400, theirs.text
        assert without(theirs.text, adas.ids) == without(nobodys.text, never)
    assert not [word for word in adas.secret if word in theirs.text and word not in _sent(theirs.request)]


async def _asked(http: httpx.AsyncClient, operation: Operation, ids: dict[str, str]) -> httpx.Response:
    """The operation with these ids wherever it takes one: in its path, its parameters and its body."""
    parameters = {name: ids[name] for name in operation.query.model_fields if name in ids}
    content: dict[str, Any] = {"content": b"a\n1\n"} if operation.uploads else {"json": _body(operation, ids)}
    return await http.request(operation.verb, _path(operation, ids), params=parameters, **content)


def _sent(request: httpx.Request) -> str:
    return f"{request.url} {request.content.decode()}"


def _path(operation: Operation, ids: dict[str, str]) -> str:
    return _NAMED.sub(lambda found: ids.get(found[1], f"{found[1]}-{NEVER}"), operation.path)


def _body(operation: Operation, ids: dict[str, str]) -> Any:
    """What the operation must be told at least, and the ids that it takes; None where it takes no body."""
    if operation.body is None:
        return None
    known: dict[str, Any] = {
        "title": "x", "paused": True, "agent": "echo", "cron": "0 0 * * *", "kind": "session", "limits": {},
        "user_id": "eve", "expected_version": 0, "tool": "echo", "signed_context": "",
    }  # fmt: skip
    named = {name: value for name, value in ids.items() if name in operation.body.model_fields}
    return {name: known[name] for name in operation.required} | named
