"""What has been revoked, as the services fetch it from the context service; and its form on the wire."""

from __future__ import annotations

from carrel.api.context.v1 import revocation_service_pb2 as pb
from carrel.api.context.v1 import revocation_service_pb2_grpc as rpc
from carrel_chassis.revocations import Changes, Fetch, Revocation, What
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.rpc.status import remote_errors

_FETCH_SECONDS = 2.0


def fetch_from(context: Peer) -> Fetch:
    """Asks the context service."""
    stub: rpc.RevocationServiceAsyncStub = rpc.RevocationServiceStub(context.channel)

    async def fetch(after_version: int) -> Changes:
        request = pb.ListRevocationsRequest(after_version=after_version)
        with remote_errors():
            answer = await stub.ListRevocations(request, metadata=context.metadata(), timeout=_FETCH_SECONDS)
        return Changes([from_message(message) for message in answer.revocations], answer.version, answer.more)

    return fetch


def from_message(message: pb.Revocation) -> Revocation:
    """The value of a message."""
    return Revocation(
        tenant_id=message.tenant_id,
        user_id=message.user_id,
        what=What(pb.RevocationKind.Name(message.kind).removeprefix("REVOCATION_KIND_")),
        value=message.value,
        version=message.version,
        revoked=message.revoked,
        change_time=message.change_time.ToMicroseconds() / 1e6,
        expire_time=message.expire_time.ToMicroseconds() / 1e6,
        reason=message.reason,
    )


def to_message(revocation: Revocation) -> pb.Revocation:
    """The message of a value."""
    message = pb.Revocation(
        tenant_id=revocation.tenant_id,
        user_id=revocation.user_id,
        kind=pb.RevocationKind.Value(f"REVOCATION_KIND_{revocation.what}"),
        value=revocation.value,
        version=revocation.version,
        revoked=revocation.revoked,
        reason=revocation.reason,
    )
    message.change_time.FromMicroseconds(round(revocation.change_time * 1e6))
    if revocation.expire_time:
        message.expire_time.FromMicroseconds(round(revocation.expire_time * 1e6))
    return message
