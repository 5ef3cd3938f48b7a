"""One operation of the HTTP face: a verb, a path, and the method of the gateway that it is."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from carrel_gateway.http_face.forms import Strict, form_of
from carrel_gateway.methods import request_type, response_type

if TYPE_CHECKING:
    from carrel_gateway.http_face.api import Api

REQUEST_ID = "request_id"
_BODIES = frozenset({"POST", "PUT", "PATCH"})
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True)
class Operation:
    """What is in braces in the path is a field of the method's request; the others are the body, or of GET and DELETE the query."""

    verb: str
    path: str
    method: str
    summary: str
    answer: str = ""
    """The field of the response that is answered; empty for all of it, and of a response without fields for 204."""
    status: int = 200
    required: tuple[str, ...] = ()
    """Members that must be there."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """What the query calls a field, where it is called otherwise: {"states": "state"}, which is repeated."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Members that the service wants and a caller may leave out."""
    own: Callable[[Api, Request], Awaitable[Response]] | None = None
    """Does it, where the message alone is not enough."""
    own_query: type[BaseModel] | None = None
    """The query of such a one."""
    streams: bool = False
    """The answer is server-sent events."""
    uploads: bool = False
    """The body is a file."""
    downloads: bool = False
    """The answer is a file."""
    with_next: bool = False
    """Beside the message's fields there is `next`, the text to go on after."""

    @property
    def name(self) -> str:
        """Its name in the document: that of the method, `start_run`."""
        return _CAPITAL.sub("_", self.method).lower()

    @property
    def in_path(self) -> list[str]:
        """The fields in braces."""
        return re.findall(r"{(\w+)}", self.path)

    @cached_property
    def request(self) -> type[Message]:
        """The class of the method's request."""
        return request_type(self.method)

    @cached_property
    def response(self) -> type[Message]:
        """The class of its answer."""
        return response_type(self.method)

    @cached_property
    def body(self) -> type[BaseModel] | None:
        """The model of the body; None where there is none."""
        if self.verb not in _BODIES or self.uploads:
            return None
        return form_of(f"{self.method}Body", self.request.DESCRIPTOR, self.in_path, self.required)

    @cached_property
    def query(self) -> type[BaseModel]:
        """The model of the query."""
        if self.own_query is not None:
            return self.own_query
        if self.verb in _BODIES or self.own is not None:
            return Strict
        return form_of(f"{self.method}Query", self.request.DESCRIPTOR, self.in_path, self.required, self.renamed)

    @property
    def repeatable(self) -> bool:
        """An Idempotency-Key makes it safe to repeat."""
        return self.body is not None and REQUEST_ID in self.body.model_fields
