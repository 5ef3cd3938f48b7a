"""The one table from kinds of errors to status codes, and back on the caller's side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from carrel_chassis.errors import CarrelError, Kind

DOMAIN = "carrel"

CODES = {
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.RACED: grpc.StatusCode.ABORTED,
    Kind.TOO_OLD: grpc.StatusCode.OUT_OF_RANGE,
    Kind.OVER_LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}
KINDS = {code: kind for kind, code in CODES.items()}


def to_status(error: CarrelError) -> Any:
    """The grpc.Status of an error, with ErrorInfo and, where they apply, BadRequest and RetryInfo."""
    code = CODES[error.kind]
    status = status_pb2.Status(code=code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    _add(status, info)
    if error.fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description=text)
            for name, text in error.fields.items()
        ]
        _add(status, error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_seconds * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return rpc_status.to_status(status)


def _add(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def from_rpc_error(error: grpc.aio.AioRpcError) -> CarrelError:
    """The error that the other side raised; its reason and details are kept."""
    kind = KINDS.get(error.code(), Kind.INTERNAL)
    # What a transport says by itself carries no reason; a caller needs one all the same.
    reason = {Kind.UNAVAILABLE: "UNAVAILABLE", Kind.TIMEOUT: "DEADLINE_EXCEEDED"}.get(kind, "INTERNAL")
    result = CarrelError(kind, reason, error.details() or error.code().name)
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        status = None
    for detail in status.details if status is not None else ():
        _read_detail(detail, result)
    return result


def _read_detail(detail: any_pb2.Any, error: CarrelError) -> None:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    if detail.Unpack(info):
        error.reason = info.reason
        error.metadata = dict(info.metadata)
    elif detail.Unpack(bad_request):
        error.fields = {violation.field: violation.description for violation in bad_request.field_violations}
    elif detail.Unpack(retry):
        error.retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9


@contextmanager
def remote_errors() -> Iterator[None]:
    """Turns the errors of a call to another service into CarrelErrors with the same kind and reason."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
