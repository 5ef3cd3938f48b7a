"""Credentials for local use, made from the keys in the data folder: development tokens, API keys, contexts as the operator gets them."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel_chassis.ids import check_id, new_id
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.rpc.status import remote_errors
from carrel_chassis.signing import ServiceSigner, read_key
from carrel_chassis.stack.certificates import operator_tls
from carrel_chassis.stack.keys import JWT_AUDIENCE, JWT_ISSUER


def development_token(
    data_dir: Path, tenant_id: str, user_id: str, lifetime_seconds: float = 12 * 3600.0, session_id: str = ""
) -> str:
    """A JWT that the local gateway takes, of a new session where none is named.

    Whoever can read the data folder can be anybody: that is why it is for development.
    """
    folder = data_dir / "keys"
    key: Ed25519PrivateKey = read_key(folder / "dev-issuer.key")
    key_id = json.loads((folder / "jwks.json").read_text())["keys"][0]["kid"]
    now = int(time.time())
    claims = {
        "iss": JWT_ISSUER,
        "aud": JWT_AUDIENCE,
        "sub": check_id(user_id, "user_id"),
        "tenant": check_id(tenant_id, "tenant_id"),
        "sid": session_id or new_id("session"),
        "iat": now,
        "exp": now + int(lifetime_seconds),
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": key_id})


class Operator:
    """The operator's identity towards the services of one stack, from its data folder."""

    def __init__(self, data_dir: Path, context_address: str) -> None:
        self.signer = ServiceSigner("operator", read_key(data_dir / "keys" / "operator.key"), time.time)
        self.context = Peer("context", context_address, self.signer, operator_tls(data_dir))
        """The context service, as the operator calls it."""
        self._stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(self.context.channel)

    async def signed_context(self, tenant_id: str, user_id: str) -> bytes:
        """A signed context of the user, as the gateway would get it: what goes into `user-context-bin`."""
        user = pb.AuthenticatedUser(tenant_id=tenant_id, user_id=user_id, session_id=new_id("session"))
        request = pb.IssueContextRequest(user=user, request_id=new_id("request"))
        with remote_errors():
            answer = await self._stub.IssueContext(request, metadata=self.context.metadata(), timeout=10.0)
        return answer.signed_context.SerializeToString(deterministic=True)

    async def create_api_key(self, tenant_id: str, user_id: str, label: str) -> str:
        """A new API key of the user; this is the only time its text is seen."""
        request = pb.CreateApiKeyRequest(tenant_id=tenant_id, user_id=user_id, label=label)
        with remote_errors():
            answer = await self._stub.CreateApiKey(request, metadata=self.context.metadata(), timeout=10.0)
        return answer.api_key

    async def close(self) -> None:
        """Closes the channel."""
        await self.context.close()


def as_metadata_value(signed_context: bytes) -> str:
    """The context as ghz and grpcurl take it: padded standard base64."""
    return base64.b64encode(signed_context).decode()
