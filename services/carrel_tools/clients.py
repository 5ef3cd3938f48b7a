"""The context service, asked in an administrator's own name."""

from __future__ import annotations

from carrel.api.context.v1 import directory_service_pb2 as pb
from carrel.api.context.v1 import directory_service_pb2_grpc as rpc
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.rpc.status import remote_errors

_SECONDS = 5.0


class Directory:
    """Knows what people may do. It is asked with the context of the caller: who may not administer users learns nothing here."""

    def __init__(self, peer: Peer, signed_context: bytes) -> None:
        self._peer = peer
        self._signed_context = signed_context

    async def scopes_of(self, tenant_id: str, user_id: str) -> frozenset[str]:
        """The scopes that the user holds now."""
        stub: rpc.DirectoryServiceAsyncStub = rpc.DirectoryServiceStub(self._peer.channel)
        request = pb.GetUserRequest(tenant_id=tenant_id, user_id=user_id)
        metadata = (("user-context-bin", self._signed_context),)
        with remote_errors():
            answer = await stub.GetUser(request, metadata=metadata, timeout=_SECONDS)
        return frozenset(answer.user.scopes)
