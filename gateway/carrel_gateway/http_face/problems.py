"""Errors as HTTP says them: one table from kinds to status codes, and problem+json (RFC 9457) with the reasons of the API."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from carrel_chassis.errors import CarrelError, Kind

STATUSES = {
    Kind.UNAUTHENTICATED: 401,
    Kind.DENIED: 403,
    Kind.INVALID: 400,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.RACED: 409,
    Kind.TOO_OLD: 410,
    Kind.OVER_LIMIT: 429,
    Kind.UNAVAILABLE: 503,
    Kind.TIMEOUT: 504,
    Kind.UNIMPLEMENTED: 501,
    Kind.INTERNAL: 500,
}


class HttpRefusal(CarrelError):
    """A refusal that only HTTP knows, such as a wrong content type; its status is its own."""

    def __init__(self, status: int, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(Kind.INVALID, "MALFORMED_REQUEST", message)
        self.status = status
        self.headers = headers or {}


def status_of(error: CarrelError) -> int:
    """The status code of an error."""
    if isinstance(error, HttpRefusal):
        return error.status
    # To gRPC a size is one limit among others; HTTP has a code of its own for it.
    return 413 if error.reason == "TOO_LARGE" else STATUSES[error.kind]


def problem_document(error: CarrelError) -> dict[str, Any]:
    """The members of a problem; `reason` is what programs should look at."""
    status = status_of(error)
    return {
        "type": f"urn:carrel:reason:{error.reason}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "reason": error.reason,
        "metadata": error.metadata,
        "fields": error.fields,
    }


def problem(error: CarrelError) -> Response:
    """The response for an error."""
    document = problem_document(error)
    headers = {"cache-control": "no-store", **(error.headers if isinstance(error, HttpRefusal) else {})}
    if error.retry_seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_seconds)))
    if document["status"] == 401:
        headers["www-authenticate"] = "Bearer"
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, document["status"], headers, "application/problem+json")


async def routing_problem(request: Request, error: Exception) -> Response:
    """The response for what Starlette's routing refuses: no such path, no such method on it."""
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this path.", 405: "This path does not take this method."}
    message = sentences.get(error.status_code, error.detail)
    return problem(HttpRefusal(error.status_code, message, headers=dict(error.headers or {})))
