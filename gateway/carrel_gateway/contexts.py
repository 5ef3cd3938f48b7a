"""The UserContext of a credential: asked for once, then kept until it has nearly expired. It knows no face."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import MAX_LIFETIME_SECONDS, UserContext
from carrel_chassis.ids import new_id
from carrel_chassis.logs import get_logger
from carrel_chassis.revocations import Revocation, Revocations
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.signing import Clock, decode_context
from carrel_gateway.credentials import ApiKey, Credentials, bearer_token, refused
from carrel_gateway.guessing import Guessing
from carrel_gateway.outward import outward_errors

CACHE_SIZE = 8192
_ISSUE_SECONDS = 5.0
_RENEW_AFTER = 0.8
"""The share of a context's life in which it is handed out: a full one, of 5 minutes, is replaced 60 s before its end."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as the services behind are told."""

    user: UserContext
    signed_context: bytes


class Contexts:
    """Finds the context of a credential. It came over our own channel from the service that signs: here it is only decoded."""

    def __init__(
        self,
        peer: Peer,
        credentials: Credentials,
        clock: Clock,
        revocations: Revocations | None = None,
        guessing: Guessing | None = None,
        cache_size: int = CACHE_SIZE,
    ) -> None:
        self._peer = peer
        self._stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(peer.channel)
        self._credentials = credentials
        self._clock = clock
        self._cache_size = cache_size
        self._revocations = revocations
        self._guessing = guessing
        if revocations is not None:
            revocations.watch(self._forget)
        # By SHA-256 of the token: a dump of this memory hands out no credential.
        self._kept: OrderedDict[bytes, tuple[float, Asker]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Asker]] = {}

    async def of(self, authorization: str | bytes | None, source: str = "") -> Asker:
        """Who sends this `authorization` header; raises UNAUTHENTICATED, or UNAVAILABLE when it cannot be told now.

        From a `source`, the address of who sends it, that has sent too many wrong ones, a new one is not looked at: LIMIT_EXCEEDED.
        """
        token = bearer_token(authorization)
        digest = hashlib.sha256(token.encode()).digest()
        renew_time, asker = self._kept.get(digest, (0.0, None))
        if asker is not None and self._clock() < renew_time:
            if self._revocations is not None and self._revocations.closed:
                self._revocations.current(asker.user)
            self._kept.move_to_end(digest)
            return asker
        with self._guessing.attempt(source) if self._guessing is not None and source else nullcontext():
            task = self._asked.get(digest)
            if task is None:  # calls that come meanwhile share this question
                task = self._asked[digest] = asyncio.create_task(self._ask(digest, token))
                task.add_done_callback(lambda done: self._answered(digest, done))
            # Shielded: the first of the callers may leave, the others still want the answer.
            return await asyncio.shield(task)

    async def instead_of(self, refused: bytes, authorization: str | bytes | None) -> Asker:
        """Who sends this header, by another signed context than the one that a service has refused."""
        digest = hashlib.sha256(bearer_token(authorization).encode()).digest()
        _, asker = self._kept.get(digest, (0.0, None))
        if asker is not None and asker.signed_context == refused:
            del self._kept[digest]
        return await self.of(authorization)

    def _forget(self, revocation: Revocation) -> None:
        """The user's rights have changed: the context service is asked anew, and it knows."""
        owner = revocation.owner
        for digest in [digest for digest, (_, asker) in self._kept.items() if asker.user.owner == owner]:
            del self._kept[digest]

    def _stands(self, user: UserContext) -> bool:
        try:
            return self._revocations is None or self._revocations.current(user) is user
        except CarrelError:
            return False

    def _answered(self, digest: bytes, task: asyncio.Task[Asker]) -> None:
        del self._asked[digest]
        if not task.cancelled():
            task.exception()  # seen, even when all who wanted it have left

    async def _ask(self, digest: bytes, token: str) -> Asker:
        request = await self._request(token)
        try:
            with outward_errors(self._peer.name):
                answer = await self._stub.IssueContext(request, metadata=self._peer.metadata(), timeout=_ISSUE_SECONDS)
        except CarrelError as error:
            raise _told(error) from None
        signed = answer.signed_context
        asker = Asker(decode_context(signed.context), signed.SerializeToString(deterministic=True))
        if not self._stands(asker.user):
            return asker  # revoked while the answer was on its way: the services behind refuse it, and the next call asks anew
        lifetime = asker.user.expire_time - asker.user.issue_time
        self._kept[digest] = (asker.user.issue_time + lifetime * _RENEW_AFTER, asker)
        self._kept.move_to_end(digest)
        if len(self._kept) > self._cache_size:
            self._kept.popitem(last=False)
        return asker

    async def _request(self, token: str) -> pb.IssueContextRequest:
        principal = await self._credentials.read(token)
        request = pb.IssueContextRequest(request_id=new_id("req"))
        if isinstance(principal, ApiKey):
            request.api_key = principal.text
            return request
        remaining = principal.expire_time - self._clock()
        if remaining <= 0:
            raise refused("The token has expired; get a new one.")
        # No context outlives the credential that it was issued for.
        request.lifetime.FromMilliseconds(max(1, int(min(MAX_LIFETIME_SECONDS, remaining) * 1000)))
        request.user.tenant_id = principal.tenant_id
        request.user.user_id = principal.user_id
        request.user.session_id = principal.session_id
        return request


def _told(error: CarrelError) -> CarrelError:
    """What the caller is told when no context was issued: what is wrong with the credential, and else nothing of our insides."""
    if error.reason in ("CREDENTIAL_INVALID", "CONTEXT_REVOKED"):
        return error
    if error.kind is Kind.INVALID:
        return refused("The credential is not one of ours.")
    if error.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.OVER_LIMIT):
        return CarrelError(
            Kind.UNAVAILABLE, "UNAVAILABLE", "Who is asking cannot be checked now; try again.", retry_seconds=1.0
        )
    get_logger().error("contexts.refused", reason=error.reason, message=error.message)
    return CarrelError(Kind.INTERNAL, "INTERNAL", "Who is asking cannot be checked; the fault is ours.")
