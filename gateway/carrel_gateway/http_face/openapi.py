"""The OpenAPI 3.1 document, written from the table of paths: queries and bodies from their models, answers from their messages."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from carrel_gateway.http_face.json_form import ApiResponse
from carrel_gateway.http_face.operation import Operation
from carrel_gateway.http_face.paths import OPERATIONS

PATH = "/openapi.json"

_ID = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9_][A-Za-z0-9._:@+~-]*$"}
_REQUEST_ID = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}
_LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that was seen; wins over `after`.",
    "schema": {"type": "string", "pattern": r"^([0-9]{1,19}-[0-9]{1,19})?$"},
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457. `reason` is what programs should look at; `fields` has a sentence for each wrong field.",
    "required": ["type", "title", "status", "detail", "reason", "metadata", "fields"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "fields": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_HEALTH = {
    "type": "object",
    "required": ["state"],
    "properties": {
        "state": {"type": "string"},
        "services": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}
_FILES = ("text/csv", "application/vnd.apache.parquet", "application/x-ndjson", "text/plain", "text/markdown")
_WELL_KNOWN = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string"},
}
_SCALARS = {
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
}


def document() -> dict[str, Any]:
    """The document as it is served."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM, "Health": _HEALTH}
    paths: dict[str, Any] = {
        "/healthz": {"get": _open("alive", "Whether the process answers.", {"200": "Health"})},
        "/readyz": {"get": _open("ready", "Whether every service behind serves.", {"200": "Health", "503": "Health"})},
    }
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.verb.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Carrel",
            "version": "1",
            "description": "Runs of AI agents, each user's alone. Every call concerns the user of its credential.",
        },
        "security": [{"credential": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "credential": {"type": "http", "scheme": "bearer", "description": "An API key or a JWT."}
            },
        },
    }


class Document:
    """Serves the document; it tells nothing of any user and needs no credential."""

    def __init__(self) -> None:
        self._document = document()

    async def serve(self, request: Request) -> Response:
        """GET /openapi.json."""
        return ApiResponse(self._document)


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    answers = {str(_status(operation)): _answer(operation, schemas), "default": _problem_answer()}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_in_path(operation), *_in_query(operation.query, schemas), *_in_headers(operation)],
        "responses": answers,
    }
    if operation.streams:
        answers["204"] = {"description": "There is nothing more to come: ask no more."}
    if operation.uploads:
        described["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": {"description": "The bytes of the file, as they are."}} for kind in _FILES},
        }
    if operation.body is not None:
        _define(operation.body, schemas)
        content = {"application/json": {"schema": _ref(operation.body.__name__)}}
        described["requestBody"] = {"required": bool(operation.required), "content": content}
    return described


def _status(operation: Operation) -> int:
    return operation.status if operation.response.DESCRIPTOR.fields else 204


def _in_path(operation: Operation) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": _ID} for name in operation.in_path]


def _in_query(model: type[BaseModel], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    schema = _schema(model, schemas)
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "schema": member} | ({"required": True} if name in required else {})
        for name, member in schema.get("properties", {}).items()
    ]


def _in_headers(operation: Operation) -> list[dict[str, Any]]:
    return [_REQUEST_ID] * operation.repeatable + [_LAST_EVENT] * operation.streams


def _define(model: type[BaseModel], schemas: dict[str, Any]) -> None:
    """Enters the schema of a model, and those of the models within it."""
    schemas[model.__name__] = _schema(model, schemas)


def _schema(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}Form")
    schemas.update({f"{name}Form": inner for name, inner in schema.pop("$defs", {}).items()})
    return schema


def _answer(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    descriptor: Any = operation.response.DESCRIPTOR
    if not descriptor.fields:
        return {"description": "Done."}
    if operation.streams:
        description = (
            "Server-sent events. `id` is the event's place, EPOCH-OFFSET, to go on after; `event` its type; `data` its JSON. "
            "A stream that cannot go on ends with an event called `problem`."
        )
        return {"description": description, "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    if operation.downloads:
        return {"description": "The bytes of the file, as they are.", "content": {kind: {} for kind in _FILES}}
    if operation.answer:
        descriptor = descriptor.fields_by_name[operation.answer].message_type
    schema = _message(descriptor, schemas)
    if operation.with_next:
        schema = {"allOf": [schema, {"required": ["next"], "properties": {"next": {"type": "string"}}}]}
    return {"description": f"{descriptor.name}.", "content": {"application/json": {"schema": schema}}}


def _problem_answer() -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {"description": "A problem.", "headers": _RETRY_AFTER, "content": content}


def _open(name: str, summary: str, answers: dict[str, str]) -> dict[str, Any]:
    responses: dict[str, Any] = {
        status: {"description": f"{schema}.", "content": {"application/json": {"schema": _ref(schema)}}}
        for status, schema in answers.items()
    }
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {**responses, "default": _problem_answer()},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _message(descriptor: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema of a message in the form that json_form gives it."""
    if descriptor.full_name in _WELL_KNOWN:
        return dict(_WELL_KNOWN[descriptor.full_name])
    if descriptor.name not in schemas:
        schema: dict[str, Any] = {"type": "object"}
        schemas[descriptor.name] = schema  # before its fields: one of them may be of the same kind
        fields = {field.name.removesuffix("_json"): field for field in descriptor.fields}
        schema["properties"] = {name: _field(field, schemas) for name, field in fields.items()}
        schema["required"] = [name for name, field in fields.items() if not field.has_presence]
    return _ref(descriptor.name)


def _field(field: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    one = _value(field, schemas)
    return {"type": "array", "items": one} if field.is_repeated else one


def _value(field: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.name.endswith("_json"):
        return {"description": "Any JSON; null when there is none."}
    if field.message_type is not None:
        return _message(field.message_type, schemas)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return dict(_SCALARS.get(field.cpp_type, {"type": "integer"}))
