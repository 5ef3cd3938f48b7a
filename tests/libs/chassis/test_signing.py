"""Signed contexts: what verifies, and all that must not."""

from __future__ import annotations

import gc
import random
from dataclasses import FrozenInstanceError, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from carrel.api.context.v1 import user_context_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import ResourceLimits, UserContext
from carrel_chassis.signing import (
    CLOCK_SKEW_SECONDS,
    ContextSigner,
    ContextVerifier,
    ServiceSigner,
    ServiceVerifier,
    decode_context,
    encode_context,
)

NOW = 1_800_000_000.0
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


class Keys:
    """The keys of the context service, as a verifier finds them."""

    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        return KEY.public_key() if key_id == "key-1" else None


class Clock:
    """A clock that stands until it is moved."""

    now = NOW

    def __call__(self) -> float:
        return self.now


def context(**changes: object) -> UserContext:
    values: dict[str, object] = {
        "context_id": "ctx-1",
        "tenant_id": "acme",
        "user_id": "ada",
        "session_id": "session-1",
        "scopes": frozenset({"runs.read", "runs.start"}),
        "audiences": frozenset({"event-stream"}),
        "issue_time": NOW,
        "expire_time": NOW + 300,
        "request_id": "request-1",
    }
    return UserContext(**{**values, **changes})  # type: ignore[arg-type]


def sign(user: UserContext, key: Ed25519PrivateKey = KEY, key_id: str = "key-1") -> bytes:
    return ContextSigner(key_id, key).sign(user).SerializeToString(deterministic=True)


def verifier(clock: Clock | None = None) -> ContextVerifier:
    return ContextVerifier(Keys(), "event-stream", clock or Clock())


async def reason(raw: bytes, clock: Clock | None = None) -> str:
    with pytest.raises(CarrelError) as refusal:
        await verifier(clock).verify(raw)
    return refusal.value.reason


def test_a_context_survives_its_encoding() -> None:
    user = context(
        limits=ResourceLimits(1, 2, 3, 4, 5), run_id="run-7", agent="data", attempt=3, depth=2, thread_id="thread-9"
    )
    assert decode_context(encode_context(user)) == user


def test_a_context_cannot_be_changed() -> None:
    user = context()
    with pytest.raises(FrozenInstanceError):
        user.user_id = "eve"  # type: ignore[misc]
    assert not hasattr(user, "__dict__")
    assert hash(user) == hash(context())


@pytest.mark.parametrize("field", ["context_id", "tenant_id", "user_id", "session_id", "request_id"])
@pytest.mark.parametrize("value", ["", "none", "Registry", "a b", "x" * 129])
def test_no_context_with_a_bad_id_exists(field: str, value: str) -> None:
    with pytest.raises(CarrelError) as refusal:
        context(**{field: value})
    assert refusal.value.fields.keys() == {field}


async def test_a_genuine_context_verifies_and_a_repeat_comes_from_the_cache() -> None:
    verify = verifier().verify
    raw = sign(context())
    first = await verify(raw)
    assert first == context()
    assert await verify(raw) is first


async def test_each_fault_has_its_reason() -> None:
    raw = sign(context())
    signed = pb.SignedUserContext.FromString(raw)
    foreign = pb.SignedUserContext.FromString(sign(context(user_id="eve")))
    recombined = pb.SignedUserContext(context=signed.context, key_id="key-1", signature=foreign.signature)
    tampered = pb.SignedUserContext(
        context=signed.context.replace(b"ada", b"eve"), key_id="key-1", signature=signed.signature
    )
    assert await reason(b"\xff\xff") == "CONTEXT_MALFORMED"
    assert await reason(raw + b"\x22\x00") == "CONTEXT_MALFORMED"
    assert await reason(b"x" * 2000) == "CONTEXT_MALFORMED"
    assert await reason(sign(context(), key_id="key-2")) == "CONTEXT_KEY_UNKNOWN"
    assert await reason(sign(context(), key=OTHER_KEY)) == "CONTEXT_SIGNATURE_INVALID"
    assert await reason(recombined.SerializeToString(deterministic=True)) == "CONTEXT_SIGNATURE_INVALID"
    assert await reason(tampered.SerializeToString(deterministic=True)) == "CONTEXT_SIGNATURE_INVALID"
    assert await reason(sign(context(audiences=frozenset({"tool-dispatch"})))) == "AUDIENCE_MISMATCH"


async def test_ten_seconds_of_clock_difference_are_tolerated_and_two_minutes_are_not() -> None:
    clock = Clock()
    raw = sign(context())
    for moment in (NOW - 10, NOW, NOW + 300 + 10):
        clock.now = moment
        await verifier(clock).verify(raw)
    clock.now = NOW - 120
    assert await reason(raw, clock) == "CONTEXT_NOT_YET_VALID"
    clock.now = NOW + 300 + 120
    assert await reason(raw, clock) == "CONTEXT_EXPIRED"


async def test_a_cached_context_dies_at_its_expiry() -> None:
    clock = Clock()
    checked = verifier(clock)
    raw = sign(context())
    await checked.verify(raw)
    clock.now = NOW + 300 + CLOCK_SKEW_SECONDS + 1
    with pytest.raises(CarrelError, match="expired"):
        await checked.verify(raw)


async def test_of_the_contexts_that_were_verified_the_latest_are_kept_and_no_more() -> None:
    """A process sees a new one with each run."""
    checked = ContextVerifier(Keys(), "event-stream", Clock(), cache_size=10)
    for number in range(200):
        user = await checked.verify(sign(context(run_id=f"run-{number}", tenant_id="tenant-of-the-kept")))
    del user
    kept = [
        each for each in gc.get_objects() if isinstance(each, UserContext) and each.tenant_id == "tenant-of-the-kept"
    ]
    assert sorted(each.run_id for each in kept) == [f"run-{number}" for number in range(190, 200)]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 2**32))
async def test_random_and_mutated_bytes_are_never_accepted(noise: bytes, seed: int) -> None:
    chance = random.Random(seed)
    raw = sign(context())
    mutated = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        mutated[chance.randrange(len(mutated))] ^= chance.randint(1, 255)
    for forged in (noise, bytes(mutated), raw[: chance.randrange(len(raw))], raw + noise):
        if forged != raw:
            with pytest.raises(CarrelError):
                await verifier().verify(forged)


def test_a_context_that_would_not_fit_into_metadata_is_not_signed() -> None:
    scopes = frozenset(f"a.very.long.scope.number.{number}" for number in range(100))
    with pytest.raises(CarrelError) as refusal:
        sign(context(scopes=scopes))
    assert refusal.value.reason == "TOO_LARGE"


def test_a_service_identity_serves_one_audience_for_a_while() -> None:
    clock = Clock()
    trust = {"gateway": KEY.public_key()}
    raw = ServiceSigner("gateway", KEY, clock).identity_for("context")
    assert ServiceVerifier(trust, "context", clock).verify(raw) == "gateway"
    for services, audience, later in (
        (trust, "tool-dispatch", 0),
        (trust, "context", 1000),
        ({"gateway": OTHER_KEY.public_key()}, "context", 0),
        ({}, "context", 0),
    ):
        clock.now = NOW + later
        with pytest.raises(CarrelError) as refusal:
            ServiceVerifier(services, audience, clock).verify(raw)
        assert refusal.value.reason == "SERVICE_IDENTITY_INVALID"


def test_a_service_identity_is_renewed_before_it_ends() -> None:
    clock = Clock()
    signer = ServiceSigner("gateway", KEY, clock)
    first = signer.identity_for("context")
    assert signer.identity_for("context") is first
    clock.now = NOW + 200
    assert signer.identity_for("context") != first


def test_two_contexts_that_differ_in_any_field_are_signed_differently() -> None:
    user = context()
    seen = {encode_context(user)}
    for change in (
        {"run_id": "run-2"},
        {"attempt": 2},
        {"depth": 1},
        {"scopes": frozenset({"runs.read"})},
        {"thread_id": "t-2"},
    ):
        seen.add(encode_context(replace(user, **change)))  # type: ignore[arg-type]
    assert len(seen) == 6
