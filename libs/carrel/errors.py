"""What the client raises: one class, and a subclass for each thing that a caller handles differently. It knows no call.

CarrelClientError
├── Unauthenticated      no credential, or a wrong, expired or revoked one: get a new one
├── PermissionDenied     the credential is good and may not do this
├── InvalidArgument      the request is wrong whatever the state is; `fields` says where
├── NotFound             absent, or another user's: the same answer
├── Conflict             the state forbids it, or the same request_id came with other content
├── HistoryTruncated     the cursor is older than what is kept: begin again without one
├── LimitExceeded        a limit is reached; try again after `retry_seconds`, where it is set
├── Unavailable          not now; the client has tried again already where that is safe
└── DeadlineExceeded     the answer did not come in time; whether a change was made is not known
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class CarrelClientError(Exception):
    """A call that failed.

    `reason` is a name of carrel.api.errors.v1.ErrorReason without its prefix ("RUN_NOT_FOUND"), or empty when no Carrel answered;
    `metadata` holds the values of the message, `fields` a sentence for each wrong field, `retry_seconds` when to try again.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.fields = dict(fields or {})
        self.retry_seconds = retry_seconds


class Unauthenticated(CarrelClientError):
    """No credential, or a wrong, expired or revoked one."""


class PermissionDenied(CarrelClientError):
    """The credential is good and may not do this."""


class InvalidArgument(CarrelClientError):
    """The request is wrong whatever the state is."""


class NotFound(CarrelClientError):
    """Absent, or another user's."""


class Conflict(CarrelClientError):
    """The state forbids it, or the same request_id came with other content."""


class HistoryTruncated(CarrelClientError):
    """The cursor is older than what is kept."""


class LimitExceeded(CarrelClientError):
    """A limit is reached, or something is too large."""


class Unavailable(CarrelClientError):
    """The service does not answer now."""


class DeadlineExceeded(CarrelClientError):
    """The answer did not come in time."""


_CLASSES: Mapping[grpc.StatusCode, type[CarrelClientError]] = {
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.OUT_OF_RANGE: HistoryTruncated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # Not by us: grpc's server says so of calls that it drops unread when too many wait.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def client_error(error: grpc.aio.AioRpcError) -> CarrelClientError:
    """The exception for what a call ended with, its details unpacked."""
    code = error.code()
    result = _CLASSES.get(code, CarrelClientError)(code, "", error.details() or code.name)
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):  # details of a proxy between, not ours
        return result
    for detail in status.details if status is not None else ():
        _read_detail(detail, result)
    return result


def _read_detail(detail: any_pb2.Any, error: CarrelClientError) -> None:
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
