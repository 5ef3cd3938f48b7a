"""Errors of the services behind, on their way out: what they say passes unchanged; what the line between says is put in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.status import from_rpc_error

_DETAILS_KEY = "grpc-status-details-bin"


@contextmanager
def outward_errors(service: str) -> Iterator[None]:
    """Turns the failure of a call to `service` into the CarrelError that the caller at the edge gets."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if any(key == _DETAILS_KEY for key, _ in error.trailing_metadata() or ()):
            raise from_rpc_error(error) from None
        raise _in_our_words(error.code(), service) from None


def unavailable(service: str) -> CarrelError:
    """The error for a service that is away."""
    return CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", f"{service} does not answer now; try again.", retry_seconds=1.0)


def _in_our_words(code: grpc.StatusCode, service: str) -> CarrelError:
    """gRPC's own sentences name addresses and ports of ours; nobody outside needs them."""
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return unavailable(service)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return CarrelError(Kind.TIMEOUT, "DEADLINE_EXCEEDED", f"{service} did not answer in time.")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return CarrelError(Kind.OVER_LIMIT, "TOO_LARGE", "The request or its answer is too large for one message.")
        case _:
            return CarrelError(Kind.INTERNAL, "INTERNAL", f"{service} gave no proper answer.")
