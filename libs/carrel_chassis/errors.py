"""The one kind of error that leaves a service: what went wrong, why, and a sentence. It knows no gRPC.

CarrelError(kind, reason, message)
    kind     which of the few things that can go wrong; decides the status code
    reason   a name of carrel.api.errors.v1.ErrorReason, without the prefix
    message  one sentence for a person that says what to do
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Kind(Enum):
    """What can go wrong, seen from the caller."""

    UNAUTHENTICATED = "who asks is not known"
    DENIED = "who asks is known and may not"
    INVALID = "wrong whatever the state is"
    NOT_FOUND = "absent, or another user's"
    CONFLICT = "the state forbids it"
    RACED = "somebody was faster, or the same id came with other content"
    TOO_OLD = "older than what is kept"
    OVER_LIMIT = "a limit is reached"
    UNAVAILABLE = "not now; try again"
    TIMEOUT = "the time was over"
    UNIMPLEMENTED = "this server has no such method"
    INTERNAL = "a fault of ours"


class CarrelError(Exception):
    """A refusal that its caller can act on.

    `metadata` carries each value that the message mentions; `fields` names the wrong fields of the request, each with its sentence;
    `retry_seconds` says when trying again makes sense.
    """

    def __init__(
        self,
        kind: Kind,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.fields = dict(fields or {})
        self.retry_seconds = retry_seconds


class CannotStart(Exception):
    """What a process finds at its start and must not serve with; it ends, and says this sentence."""


def invalid(field: str, message: str, reason: str = "INVALID_ARGUMENT") -> CarrelError:
    """The error for a wrong field of a request."""
    return CarrelError(Kind.INVALID, reason, message, metadata={"field": field}, fields={field: message})
