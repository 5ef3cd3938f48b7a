"""What a context costs a service: to make, to verify the first time, to verify again, to keep."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from carrel_chassis.identity import UserContext
from carrel_chassis.signing import ContextSigner, ContextVerifier
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
    verifier = ContextVerifier(Keys(), "event-stream", time.time)
    begin = time.perf_counter()
    for raw in raws:
        await verifier.verify(raw)
    uncached = (time.perf_counter() - begin) / len(raws) * 1e6
    raw = raws[-1]
    begin = time.perf_counter()
    for _ in range(count):
        await verifier.verify(raw)
    cached = (time.perf_counter() - begin) / count * 1e6

    tracemalloc.start()
    kept = [make(number, now) for number in range(1000)]
    bytes_each = tracemalloc.get_traced_memory()[0] / len(kept)
    tracemalloc.stop()
    conditions = "seven ids, three scopes, two audiences"
    return [
        Figure("context/create", create, "us", "< 5", conditions=conditions),
        Figure("context/verify uncached", uncached, "us", "< 250", conditions="Ed25519 and parsing"),
        Figure("context/verify cached", cached, "us", "< 1", conditions="the same bytes again"),
        Figure("context/memory", bytes_each, "bytes", "< 400", conditions="its own id; the other ids are shared"),
    ]
