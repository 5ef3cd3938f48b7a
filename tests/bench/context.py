"""What a context costs a service: to make, to verify the first time, to verify again, to keep."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from carrel.api.policy.v1 import policy_pb2
from carrel_chassis.identity import UserContext
from carrel_chassis.revocations import Changes, Revocation, Revocations, What
from carrel_chassis.rpc.call import Call
from carrel_chassis.rpc.identity import ContextAuthenticator, Identity
from carrel_chassis.rpc.layer import compose
from carrel_chassis.rpc.standing import Standing
from carrel_chassis.signing import ContextSigner, ContextVerifier, ServiceVerifier, decode_context, encode_context
from tests.bench.report import Figure

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SCOPES = frozenset({"events.read", "runs.read", "runs.start"})
AUDIENCES = frozenset({"event-stream", "agent-execution"})


class Keys:
    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        return KEY.public_key()


def make(number: int, now: float) -> UserContext:
    """A validated context, all ids set."""
    return UserContext(
        context_id=f"ctx-{number}",
        tenant_id="acme",
        user_id="ada",
        session_id="session-1",
        scopes=SCOPES,
        audiences=AUDIENCES,
        issue_time=now,
        expire_time=now + 300,
        request_id="request-1",
        thread_id="thread-1",
        run_id="run-1",
        agent="data",
        attempt=1,
    )


def of_a_stranger(number: int, now: float) -> UserContext:
    """One that shares no id with another."""
    return replace(
        make(number, now),
        context_id=f"ctx-{number:032x}",
        tenant_id=f"tenant-{number:08x}",
        user_id=f"user-{number:012x}",
        session_id=f"session-{number:016x}",
        request_id=f"req-{number:032x}",
        thread_id=f"thread-{number:016x}",
        run_id=f"run-{number:016x}",
    )


async def others_revoked(after: int) -> Changes:
    """10,000 revocations of other users."""
    found = [Revocation("acme", f"user-{n}", What.USER, "", n, True, 1.0) for n in range(1, 10_001)]
    return Changes(found, 10_000)


UNARY_US = 280.0
"""CPU of a bare unary call of grpc.aio at its server, on the machine that the design's figures are from."""


async def check_of_a_call(verifier: ContextVerifier, revocations: Revocations, raw: bytes) -> float:
    """Microseconds that the layers of identity and standing take of a call whose context is in the cache."""
    services = ServiceVerifier({}, "event-stream", time.time)
    policy = policy_pb2.MethodPolicy(caller=policy_pb2.CALLER_USER, scopes=["events.read"])

    async def nothing(call: Call) -> None:
        return None

    layers = [Identity(ContextAuthenticator(verifier, services)), Standing(revocations)]
    checked = compose(layers, nothing)
    call = Call("/a.B/C", policy, b"", None, {"user-context-bin": raw}, "call-1", False, asyncio.Event())
    count = 20_000
    times = []
    for handler in (checked, nothing):
        begin = time.perf_counter()
        for _ in range(count):
            await handler(call)
        times.append((time.perf_counter() - begin) / count * 1e6)
    return times[0] - times[1]


async def measure() -> list[Figure]:
    now = time.time()
    count = 50_000
    begin = time.perf_counter()
    for number in range(count):
        make(number, now)
    create = (time.perf_counter() - begin) / count * 1e6

    signer = ContextSigner("key-1", KEY)
    base = make(0, now)
    raws = [
        signer.sign(replace(base, context_id=f"ctx-{n}")).SerializeToString(deterministic=True) for n in range(2000)
    ]
    revocations = Revocations(others_revoked, time.time)
    await revocations.refresh()
    verifier = ContextVerifier(Keys(), "event-stream", time.time, revocations)
    begin = time.perf_counter()
    for raw in raws:
        await verifier.verify(raw)
    uncached = (time.perf_counter() - begin) / len(raws) * 1e6
    raw = raws[-1]
    begin = time.perf_counter()
    for _ in range(count):
        await verifier.verify(raw)
    cached = (time.perf_counter() - begin) / count * 1e6

    check = await check_of_a_call(verifier, revocations, raw)

    tracemalloc.start()
    kept = [make(number, now) for number in range(1000)]
    bytes_each = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    strangers = [encode_context(of_a_stranger(number, now)) for number in range(1000)]
    decode_context(strangers[0])
    tracemalloc.start()
    decoded = [decode_context(encoded) for encoded in strangers]
    bytes_decoded = tracemalloc.get_traced_memory()[0] / len(decoded)
    tracemalloc.stop()
    signing = time.perf_counter()
    for number in range(2000):
        signer.sign(make(number, now))
    sign = (time.perf_counter() - signing) / 2000 * 1e6
    conditions = "seven ids, three scopes, two audiences"
    return [
        Figure("context/create", create, "us", "< 5", conditions=conditions),
        Figure("context/verify uncached", uncached, "us", "< 250", conditions="Ed25519 and parsing"),
        Figure("context/verify cached", cached, "us", "< 1", conditions="the same bytes again"),
        Figure(
            "context/check of a unary call",
            check,
            "us",
            f"< {UNARY_US * 0.05:g}",
            UNARY_US,
            check / UNARY_US,
            "identity and standing, cached; 5 % of a bare call's CPU",
        ),
        Figure("context/make and sign", sign, "us", conditions="without the look-up of the user"),
        Figure("context/memory", bytes_each, "bytes", "< 400", conditions="its own id; the other ids are shared"),
        Figure(
            "context/memory, nothing shared but rights",
            bytes_decoded,
            "bytes",
            conditions="decoded, of 1,000 users: seven ids of its own, 190 characters together",
        ),
    ]
