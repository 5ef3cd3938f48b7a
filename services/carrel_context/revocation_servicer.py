"""RevocationService as it is called: proto in, proto out."""

from __future__ import annotations

from typing import Any

from carrel.api.context.v1 import revocation_service_pb2 as pb
from carrel.api.context.v1 import revocation_service_pb2_grpc as rpc
from carrel_chassis.errors import invalid
from carrel_chassis.revocations import What
from carrel_chassis.rpc.revocations import to_message
from carrel_context.admins import check_tenant
from carrel_context.revocations import RevocationOperations

_MAX_REASON = 256
_KINDS = {
    pb.REVOCATION_KIND_USER: What.USER,
    pb.REVOCATION_KIND_SESSION: What.SESSION,
    pb.REVOCATION_KIND_RUN: What.RUN,
    pb.REVOCATION_KIND_SCOPE: What.SCOPE,
}


class RevocationServicer(rpc.RevocationServiceServicer):
    """See the proto for what each method promises."""

    def __init__(self, operations: RevocationOperations) -> None:
        self._operations = operations

    async def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeResponse:
        check_tenant(request.tenant_id)
        if len(request.reason) > _MAX_REASON or "\0" in request.reason:
            raise invalid("reason", f"reason is text of at most {_MAX_REASON} characters, without NUL.")
        done = await self._operations.revoke(
            request.tenant_id, request.user_id, _what(request), request.value, request.reason
        )
        return pb.RevokeResponse(revocation=to_message(done))

    async def Restore(self, request: pb.RestoreRequest, context: Any) -> pb.RestoreResponse:
        check_tenant(request.tenant_id)
        done = await self._operations.restore(request.tenant_id, request.user_id, _what(request), request.value)
        return pb.RestoreResponse(revocation=to_message(done))

    async def ListRevocations(self, request: pb.ListRevocationsRequest, context: Any) -> pb.ListRevocationsResponse:
        changes = await self._operations.changes(request.after_version)
        return pb.ListRevocationsResponse(
            revocations=[to_message(change) for change in changes.revocations],
            version=changes.version,
            more=changes.more,
        )


def _what(request: pb.RevokeRequest | pb.RestoreRequest) -> What:
    what = _KINDS.get(request.kind)
    if what is None:
        raise invalid("kind", "kind says nothing that can be revoked; choose a user, session, run or scope.")
    return what
