"""Signed contexts and service identities: bytes to values and back, and the checks between. It knows no RPC."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from carrel.api.context.v1 import user_context_pb2 as pb
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import NO_LIMITS, ResourceLimits, UserContext
from carrel_chassis.revocations import Revocation, Revocations

MAX_CONTEXT_BYTES = 1536
CLOCK_SKEW_SECONDS = 30.0
"""How far two clocks may stand apart before a context is refused as not yet valid or expired."""
SERVICE_IDENTITY_SECONDS = 300.0

_CONTEXT_DOMAIN = b"carrel.user-context.v1\n"
_SERVICE_DOMAIN = b"carrel.service-identity.v1\n"
_CACHE_SIZE = 8192
"""Of contexts and of service identities that have been verified; a context of a run takes 2 KB in there, all of them 16 MB."""

Clock = Callable[[], float]


class PublicKeys(Protocol):
    """Where a verifier finds the keys of the context service."""

    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        """The key of this id, or None when the context service lists none such."""


def _refuse(reason: str, message: str, kind: Kind = Kind.UNAUTHENTICATED, **metadata: str) -> CarrelError:
    return CarrelError(kind, reason, message, metadata=metadata)


def encode_context(user: UserContext) -> bytes:
    """The bytes that are signed."""
    message = pb.UserContext(
        context_id=user.context_id,
        tenant_id=user.tenant_id,
        user_id=user.user_id,
        thread_id=user.thread_id,
        run_id=user.run_id,
        request_id=user.request_id,
        connection_id=user.connection_id,
        session_id=user.session_id,
        scopes=sorted(user.scopes),
        audiences=sorted(user.audiences),
        limits=limits_to_message(user.limits),
        depth=user.depth,
        parent_context_id=user.parent_context_id,
        agent=user.agent,
        attempt=user.attempt,
    )
    if user.tenant_limits != NO_LIMITS:
        message.tenant_limits.CopyFrom(limits_to_message(user.tenant_limits))
    message.issue_time.FromNanoseconds(int(user.issue_time * 1e6) * 1000)
    message.expire_time.FromNanoseconds(int(user.expire_time * 1e6) * 1000)
    return message.SerializeToString(deterministic=True)


def decode_context(encoded: bytes) -> UserContext:
    """The value of signed bytes; raises CarrelError when an id in it is not one."""
    message = pb.UserContext.FromString(encoded)
    return UserContext(
        context_id=message.context_id,
        tenant_id=message.tenant_id,
        user_id=message.user_id,
        session_id=message.session_id,
        scopes=_shared_set(tuple(message.scopes)),
        audiences=_shared_set(tuple(message.audiences)),
        issue_time=message.issue_time.ToMicroseconds() / 1e6,
        expire_time=message.expire_time.ToMicroseconds() / 1e6,
        request_id=message.request_id,
        thread_id=message.thread_id,
        run_id=message.run_id,
        connection_id=message.connection_id,
        limits=limits_from_message(message.limits),
        depth=message.depth,
        parent_context_id=message.parent_context_id,
        agent=message.agent,
        attempt=message.attempt,
        tenant_limits=limits_from_message(message.tenant_limits),
    )


def limits_to_message(limits: ResourceLimits) -> pb.ResourceLimits:
    """The message of a value."""
    return pb.ResourceLimits(
        running_runs=limits.running_runs,
        queued_runs=limits.queued_runs,
        database_sessions=limits.database_sessions,
        tool_calls_per_minute=limits.tool_calls_per_minute,
        open_streams=limits.open_streams,
        isolated_memory_mb=limits.isolated_memory_mb,
        weight=limits.weight,
    )


def limits_from_message(message: pb.ResourceLimits) -> ResourceLimits:
    """The value of a message. Most users have the same limits: those share one object."""
    return _shared_limits(
        message.running_runs,
        message.queued_runs,
        message.database_sessions,
        message.tool_calls_per_minute,
        message.open_streams,
        message.isolated_memory_mb,
        message.weight,
    )


@lru_cache(maxsize=1024)
def _shared_set(names: tuple[str, ...]) -> frozenset[str]:
    """Most users may do the same: their contexts share one set, which is larger than all the rest of a context."""
    return frozenset(names)


@lru_cache(maxsize=1024)
def _shared_limits(*values: int) -> ResourceLimits:
    return ResourceLimits(*values)


class ContextSigner:
    """Signs contexts; only the context service has one."""

    def __init__(self, key_id: str, private_key: Ed25519PrivateKey) -> None:
        self.key_id = key_id
        self._private_key = private_key

    def sign(self, user: UserContext) -> pb.SignedUserContext:
        """The signed context; raises TOO_LARGE when it would not fit into the metadata of a call."""
        encoded = encode_context(user)
        signed = pb.SignedUserContext(
            context=encoded, key_id=self.key_id, signature=self._private_key.sign(_CONTEXT_DOMAIN + encoded)
        )
        if signed.ByteSize() > MAX_CONTEXT_BYTES:
            raise CarrelError(
                Kind.INVALID,
                "TOO_LARGE",
                f"The context has {signed.ByteSize()} bytes; it may have {MAX_CONTEXT_BYTES}.",
            )
        return signed


class ContextVerifier:
    """Verifies the contexts that come with calls. A repeat of the same bytes costs a dictionary look-up and a few comparisons:
    what is revoked leaves the cache at that moment, so that nothing has to be looked up again for what is in it."""

    def __init__(
        self,
        keys: PublicKeys,
        audience: str,
        clock: Clock,
        revocations: Revocations | None = None,
        *,
        cache_size: int = _CACHE_SIZE,
    ) -> None:
        self._cache_size = cache_size
        self._keys = keys
        self._audience = audience
        self._clock = clock
        self._revocations = revocations
        self._verified: dict[bytes, UserContext] = {}
        if revocations is not None:
            revocations.watch(self._forget)

    def _forget(self, revocation: Revocation) -> None:
        owner = revocation.owner
        for raw in [raw for raw, user in self._verified.items() if user.owner == owner]:
            del self._verified[raw]

    async def verify(self, raw: bytes) -> UserContext:
        """The context in `raw`, a SignedUserContext; raises UNAUTHENTICATED or DENIED with the reason."""
        revocations = self._revocations
        user = self._verified.get(raw)
        if user is not None and self._clock() <= user.expire_time + CLOCK_SKEW_SECONDS:
            return user if revocations is None or not revocations.closed else revocations.current(user)
        user = await self.verify_signature(raw)
        self._check_times(user)
        if self._audience not in user.audiences:
            raise _refuse(
                "AUDIENCE_MISMATCH",
                f"The context is not meant for {self._audience}.",
                Kind.DENIED,
                audience=self._audience,
            )
        if revocations is not None:
            # Last, and with nothing awaited between it and the cache: what is revoked from now on is taken out of there.
            user = await revocations.check(user)
        if len(self._verified) >= self._cache_size:
            del self._verified[next(iter(self._verified))]  # the oldest: a dict keeps the order of insertion
        self._verified[raw] = user
        return user

    async def verify_signature(self, raw: bytes) -> UserContext:
        """The context in `raw` if the context service signed it, however old it is and whomever it is meant for."""
        signed = parse_signed(raw)
        await check_signature(signed, self._keys)
        return decode_context(signed.context)

    def _check_times(self, user: UserContext) -> None:
        now = self._clock()
        if now > user.expire_time + CLOCK_SKEW_SECONDS:
            raise _refuse("CONTEXT_EXPIRED", "The context has expired; ask for a new one.")
        if now < user.issue_time - CLOCK_SKEW_SECONDS:
            raise _refuse("CONTEXT_NOT_YET_VALID", "The context was issued in the future; one of the clocks is wrong.")


async def check_signature(signed: pb.SignedUserContext, keys: PublicKeys) -> None:
    """Raises UNAUTHENTICATED unless one of the keys has signed it."""
    key = await keys.get(signed.key_id)
    if key is None:
        raise _refuse(
            "CONTEXT_KEY_UNKNOWN", "The context is signed with a key that is not listed; ask for a new context."
        )
    try:
        key.verify(signed.signature, _CONTEXT_DOMAIN + signed.context)
    except InvalidSignature:
        raise _refuse("CONTEXT_SIGNATURE_INVALID", "The signature of the context does not fit its content.") from None


def parse_signed(raw: bytes) -> pb.SignedUserContext:
    """The parts of a signed context. Bytes that say the same in another way are refused: one context has one form."""
    if len(raw) > MAX_CONTEXT_BYTES:
        raise _refuse("CONTEXT_MALFORMED", f"The context has {len(raw)} bytes; it has at most {MAX_CONTEXT_BYTES}.")
    try:
        signed = pb.SignedUserContext.FromString(raw)
    except DecodeError:
        raise _refuse("CONTEXT_MALFORMED", "user-context-bin holds no signed context.") from None
    signed.DiscardUnknownFields()
    if signed.SerializeToString(deterministic=True) != raw:
        raise _refuse("CONTEXT_MALFORMED", "user-context-bin holds more than a signed context.")
    return signed


def read_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file of 32 bytes in base64."""
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(path.read_text().strip(), validate=True))


def read_trust(path: Path) -> Mapping[str, Ed25519PublicKey]:
    """The public keys of the services by name, from JSON with 32 bytes in base64 each."""
    keys = json.loads(path.read_text())
    return {
        name: Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True)) for name, key in keys.items()
    }


class ServiceSigner:
    """Says who this service is, to one other service at a time."""

    def __init__(self, service: str, private_key: Ed25519PrivateKey, clock: Clock) -> None:
        self.service = service
        self._private_key = private_key
        self._clock = clock
        self._current: dict[str, tuple[float, bytes]] = {}

    def identity_for(self, audience: str) -> bytes:
        """A SignedServiceIdentity for this audience; the same bytes for a while, so that the receiver's cache serves."""
        now = self._clock()
        renew_time, raw = self._current.get(audience, (0.0, b""))
        if now < renew_time:
            return raw
        statement = pb.ServiceIdentity(service=self.service, audience=audience)
        statement.issue_time.FromSeconds(int(now))
        statement.expire_time.FromSeconds(int(now + SERVICE_IDENTITY_SECONDS))
        encoded = statement.SerializeToString(deterministic=True)
        signature = self._private_key.sign(_SERVICE_DOMAIN + encoded)
        raw = pb.SignedServiceIdentity(identity=encoded, signature=signature).SerializeToString(deterministic=True)
        self._current[audience] = (now + SERVICE_IDENTITY_SECONDS / 2, raw)
        return raw


class ServiceVerifier:
    """Verifies what services say of themselves."""

    def __init__(self, trust: Mapping[str, Ed25519PublicKey], audience: str, clock: Clock) -> None:
        self.keys = trust
        """The public keys of the services that are trusted, by name."""
        self._audience = audience
        self._clock = clock
        self._verified: dict[bytes, tuple[float, str]] = {}

    def verify(self, raw: bytes) -> str:
        """The name of the service that signed `raw` for this audience; raises SERVICE_IDENTITY_INVALID."""
        expire_time, service = self._verified.get(raw, (0.0, ""))
        if self._clock() < expire_time:
            return service
        statement = self._statement(raw)
        expire_time = statement.expire_time.ToMicroseconds() / 1e6 + CLOCK_SKEW_SECONDS
        now = self._clock()
        too_long = statement.expire_time.seconds - statement.issue_time.seconds > SERVICE_IDENTITY_SECONDS
        if now >= expire_time or now < statement.issue_time.seconds - CLOCK_SKEW_SECONDS or too_long:
            raise _refuse("SERVICE_IDENTITY_INVALID", "The identity of the calling service is not valid at this time.")
        if statement.audience != self._audience:
            raise _refuse(
                "SERVICE_IDENTITY_INVALID", "The identity of the calling service was made for another service."
            )
        if len(self._verified) >= _CACHE_SIZE:
            del self._verified[next(iter(self._verified))]
        self._verified[raw] = (expire_time, statement.service)
        return statement.service

    def _statement(self, raw: bytes) -> pb.ServiceIdentity:
        try:
            signed = pb.SignedServiceIdentity.FromString(raw)
            statement = pb.ServiceIdentity.FromString(signed.identity)
            self.keys[statement.service].verify(signed.signature, _SERVICE_DOMAIN + signed.identity)
        except (DecodeError, KeyError, InvalidSignature):
            raise _refuse("SERVICE_IDENTITY_INVALID", "The calling service has not proved who it is.") from None
        return statement
