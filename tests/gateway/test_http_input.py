"""What comes in over HTTP: every way in which a request can be ill-formed, and the problem that says so."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from carrel_chassis.errors import CarrelError, Kind
from carrel_gateway.http_face.problems import STATUSES, problem
from tests.gateway.edge import chunks, http_client
from tests.support.system import Person, System

JSON = {"content-type": "application/json"}
DEEP = b'{"agent":"echo","input":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}"

BAD_BODIES: dict[str, tuple[bytes, dict[str, str], int, str, str]] = {
    # name: body, headers, status, reason, wrong field
    "no content type": (b"{}", {}, 415, "MALFORMED_REQUEST", ""),
    "form": (b"agent=echo", {"content-type": "application/x-www-form-urlencoded"}, 415, "MALFORMED_REQUEST", ""),
    "text": (b"{}", {"content-type": "text/plain"}, 415, "MALFORMED_REQUEST", ""),
    "empty": (b"", JSON, 400, "MALFORMED_REQUEST", ""),
    "no JSON": (b"{agent: echo}", JSON, 400, "MALFORMED_REQUEST", ""),
    "cut off": (b'{"agent":"ec', JSON, 400, "MALFORMED_REQUEST", ""),
    "more after it": (b'{"agent":"echo"} {}', JSON, 400, "MALFORMED_REQUEST", ""),
    "a list": (b"[]", JSON, 400, "MALFORMED_REQUEST", ""),
    "a text": (b'"echo"', JSON, 400, "MALFORMED_REQUEST", ""),
    "null": (b"null", JSON, 400, "MALFORMED_REQUEST", ""),
    "no UTF-8": (b'{"agent":"\xff\xfe"}', JSON, 400, "MALFORMED_REQUEST", ""),
    "UTF-16": ('{"agent":"echo"}'.encode("utf-16"), JSON, 400, "MALFORMED_REQUEST", ""),
    "half a surrogate pair": (b'{"agent":"\\ud800"}', JSON, 400, "MALFORMED_REQUEST", ""),
    "half a pair deep inside": (b'{"agent":"echo","input":{"\\udfff":1}}', JSON, 400, "MALFORMED_REQUEST", ""),
    "NaN": (b'{"agent":"echo","input":{"a":NaN}}', JSON, 400, "MALFORMED_REQUEST", ""),
    "infinity": (b'{"agent":"echo","input":{"a":-Infinity}}', JSON, 400, "MALFORMED_REQUEST", ""),
    "too many digits": (b'{"agent":"echo","input":{"a":' + b"9" * 5000 + b"}}", JSON, 400, "MALFORMED_REQUEST", ""),
    "too deep": (DEEP, JSON, 400, "MALFORMED_REQUEST", ""),
    "too large": (b'{"agent":"' + b"x" * 1_100_000 + b'"}', JSON, 413, "TOO_LARGE", ""),
    "unknown field": (b'{"agent":"echo","user_id":"eve"}', JSON, 400, "INVALID_ARGUMENT", "user_id"),
    "missing field": (b'{"input":{}}', JSON, 400, "INVALID_ARGUMENT", "agent"),
    "number for a text": (b'{"agent":7}', JSON, 400, "INVALID_ARGUMENT", "agent"),
    "null for a text": (b'{"agent":"echo","thread_id":null}', JSON, 400, "INVALID_ARGUMENT", "thread_id"),
    "list for an object": (b'{"agent":"echo","input":[]}', JSON, 400, "INVALID_ARGUMENT", "input"),
    "text for an object": (b'{"agent":"echo","input":"{}"}', JSON, 400, "INVALID_ARGUMENT", "input"),
    "two request ids": (
        b'{"agent":"echo","request_id":"one-id"}',
        {**JSON, "idempotency-key": "other-id"},
        400,
        "INVALID_ARGUMENT",
        "request_id",
    ),
}

BAD_QUERIES: dict[str, tuple[str, str]] = {
    "/v1/runs?page_size=-1": ("INVALID_ARGUMENT", "page_size"),
    "/v1/runs?page_size=many": ("INVALID_ARGUMENT", "page_size"),
    "/v1/runs?page_size=4294967296": ("INVALID_ARGUMENT", "page_size"),
    "/v1/runs?page_size=1&page_size=2": ("INVALID_ARGUMENT", "page_size"),
    "/v1/runs?user_id=eve": ("INVALID_ARGUMENT", "user_id"),
    "/v1/runs?state=ASLEEP": ("INVALID_ARGUMENT", "state.0"),
    "/v1/runs/run-x?tenant_id=other": ("INVALID_ARGUMENT", "tenant_id"),
    "/v1/tools?all=1": ("INVALID_ARGUMENT", "all"),
    "/v1/events?after=1": ("CURSOR_INVALID", "after"),
    "/v1/events?after=-1-1": ("CURSOR_INVALID", "after"),
    "/v1/events?after=1-18446744073709551616": ("CURSOR_INVALID", "after"),
    "/v1/events/page?after=%D9%A1-%D9%A1": ("CURSOR_INVALID", "after"),
    "/v1/events/page?after=%00": ("CURSOR_INVALID", "after"),
    "/v1/runs/run-x/events?after=new": ("CURSOR_INVALID", "after"),
}


def check(answer: Any, status: int, reason: str, field: str = "") -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    document = answer.json()
    assert document["reason"] == reason
    assert document["type"] == f"urn:carrel:reason:{reason}"
    assert document["status"] == status
    assert document["detail"]
    assert set(document["fields"]) == ({field} if field else set())
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_is_refused(system: System, ada: Person, name: str) -> None:
    body, headers, status, reason, field = BAD_BODIES[name]
    async with http_client(system, ada.token) as http:
        check(await http.post("/v1/runs", content=body, headers=headers), status, reason, field)


@pytest.mark.parametrize("path", BAD_QUERIES)
async def test_a_bad_query_is_refused(system: System, ada: Person, path: str) -> None:
    async with http_client(system, ada.token) as http:
        check(await http.get(path), 400, *BAD_QUERIES[path])


async def test_a_body_without_an_announced_length_is_cut_off_at_the_limit(system: System, ada: Person) -> None:
    async def endless() -> Any:
        for chunk in chunks(40, 65536):
            yield chunk

    async with http_client(system, ada.token) as http:
        check(await http.post("/v1/runs", content=endless(), headers=JSON), 413, "TOO_LARGE")


async def test_a_header_without_end_is_cut_off(system: System) -> None:
    """Nobody has to prove anything to send one: it must not fill the memory."""
    host, _, port = system.addresses["gateway_http"].partition(":")
    source, sink = await asyncio.open_connection(host, int(port))
    sink.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 200_000)
    async with asyncio.timeout(5):
        assert (await source.readline()).split()[1] in (b"400", b"431")
    sink.close()
    with suppress(OSError):
        await sink.wait_closed()


async def test_paths_and_methods_that_are_none_are_problems_too(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http:
        for path in ("/", "/v1", "/v2/runs", "/v1/runs/", "/v1/runs/a/b", "/v1/corpora/a%2Fb", "/v1/runs/../../etc"):
            check(await http.get(path), 404, "MALFORMED_REQUEST")
        for verb, path in (("DELETE", "/v1/runs"), ("POST", "/v1/events"), ("PATCH", "/v1/runs/run-x")):
            answer = await http.request(verb, path)
            check(answer, 405, "MALFORMED_REQUEST")
            assert answer.headers["allow"]


async def test_an_upload_says_what_it_is(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http:
        check(await http.put("/v1/corpora/trace", content=b"a,b\n"), 415, "MALFORMED_REQUEST")


async def test_an_answer_is_kept_by_nobody_between(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http:
        for path in ("/v1/events/page", "/v1/events?after=x"):
            assert (await http.get(path)).headers["cache-control"] == "no-store"


def test_every_kind_of_error_has_a_status() -> None:
    assert set(STATUSES) == set(Kind)


def test_a_problem_says_when_to_come_back_in_whole_seconds() -> None:
    answer = problem(CarrelError(Kind.OVER_LIMIT, "LIMIT_EXCEEDED", "Wait.", retry_seconds=0.2))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert json.loads(bytes(answer.body))["reason"] == "LIMIT_EXCEEDED"
