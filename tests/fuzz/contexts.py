"""`python -m tests.fuzz.contexts --cases 1000000 --seed 1`: wrong contexts in every form; none may be accepted, none may crash.

A case is random bytes, a genuine context with bytes cut, changed, added or doubled, parts of several genuine ones put together, or a
wrong content that a wrong key has signed. The genuine ones must pass all the while, so that a verifier that refuses all is no success.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from carrel.api.context.v1 import user_context_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import ResourceLimits, UserContext
from carrel_chassis.signing import ContextSigner, ContextVerifier

NOW = 1_800_000_000.0
KEYS = {f"sig-{number}": Ed25519PrivateKey.from_private_bytes(bytes([number + 1] * 32)) for number in range(2)}
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
_WORDS = ["", "none", " none ", "NULL", "a\nb", "a\0b", "<b>", "аdа", "x" * 400, "..", "admin.tenants", "\u202e"]


class Keys:
    """The keys of the context service, as a verifier finds them."""

    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        key = KEYS.get(key_id)
        return key.public_key() if key else None


@dataclass
class Result:
    """What came of it."""

    cases: int = 0
    accepted: list[bytes] = field(default_factory=list)
    crashes: list[tuple[bytes, Exception]] = field(default_factory=list)
    genuine: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """None accepted, none crashed, and the genuine ones passed."""
        return not self.accepted and not self.crashes and self.genuine > 0


def genuine_contexts(chance: random.Random, count: int = 50) -> list[bytes]:
    """Signed contexts of several users, with most fields set."""
    made = []
    for number in range(count):
        user = UserContext(
            context_id=f"ctx-{number}",
            tenant_id=f"tenant-{number % 3}",
            user_id=f"user-{number % 7}",
            session_id=f"session-{number}",
            scopes=frozenset(chance.sample(["runs.start", "runs.read", "tools.use", "events.read"], 2)),
            audiences=frozenset({"event-stream", "context"}),
            issue_time=NOW,
            expire_time=NOW + 300,
            request_id=f"request-{number}",
            run_id=f"run-{number}" if number % 2 else "",
            limits=ResourceLimits(*(chance.randrange(10) for _ in range(6))),
            depth=number % 5,
            agent="echo" if number % 2 else "",
            attempt=number % 2,
        )
        key_id = chance.choice(list(KEYS))
        made.append(ContextSigner(key_id, KEYS[key_id]).sign(user).SerializeToString(deterministic=True))
    return made


class Forger:
    """Makes wrong contexts from genuine ones."""

    def __init__(self, chance: random.Random, genuine: list[bytes]) -> None:
        self._chance = chance
        self._genuine = genuine
        self._known = set(genuine)
        self._ways: list[Callable[[], bytes]] = [
            self._random,
            self._truncated,
            self._mutated,
            self._extended,
            self._doubled,
            self._recombined,
            self._rewritten,
            self._signed_by_a_stranger,
        ]

    def make(self) -> bytes:
        """Bytes that are no genuine context."""
        while True:
            forged = self._chance.choice(self._ways)()
            if forged not in self._known:
                return forged

    def _any(self) -> bytes:
        return self._chance.choice(self._genuine)

    def _random(self) -> bytes:
        return self._chance.randbytes(self._chance.choice([0, 1, 2, 10, 200, 500, 1536, 1537, 4000]))

    def _truncated(self) -> bytes:
        raw = self._any()
        begin = self._chance.choice([0, 0, 0, self._chance.randrange(len(raw))])
        return raw[begin : self._chance.randrange(begin, len(raw)) + self._chance.choice([0, 1])]

    def _mutated(self) -> bytes:
        raw = bytearray(self._any())
        for _ in range(self._chance.choice([1, 1, 1, 2, 5, 50])):
            place = self._chance.randrange(len(raw))
            raw[place] = self._chance.choice(
                [raw[place] ^ (1 << self._chance.randrange(8)), self._chance.randrange(256)]
            )
        return bytes(raw)

    def _extended(self) -> bytes:
        more = self._chance.choice([b"\0", b"\x22\x01x", b"\x12\x05sig-1", self._chance.randbytes(5)])
        return self._any() + more if self._chance.random() < 0.7 else more + self._any()

    def _doubled(self) -> bytes:
        """Two messages in a row are one in protobuf, in which the later fields win."""
        return self._any() + self._any()[: self._chance.randrange(1, 200)]

    def _recombined(self) -> bytes:
        parts = [pb.SignedUserContext.FromString(self._any()) for _ in range(3)]
        return pb.SignedUserContext(
            context=parts[0].context, key_id=parts[1].key_id, signature=parts[2].signature
        ).SerializeToString(deterministic=True)

    def _rewritten(self) -> bytes:
        """Another content under a genuine signature."""
        signed = pb.SignedUserContext.FromString(self._any())
        context = pb.UserContext.FromString(signed.context)
        match self._chance.randrange(6):
            case 0:
                context.user_id = self._chance.choice(["user-x", *_WORDS])
            case 1:
                context.tenant_id = self._chance.choice(["tenant-x", *_WORDS])
            case 2:
                context.scopes.append(self._chance.choice(["admin.tenants", "runs.close", *_WORDS]))
            case 3:
                context.expire_time.seconds += self._chance.choice([1, 10**6, -(10**6)])
            case 4:
                context.depth = self._chance.choice([11, 2**32 - 1])
            case _:
                context.audiences.append("tool-dispatch")
        signed.context = context.SerializeToString(deterministic=self._chance.random() < 0.5)
        return signed.SerializeToString(deterministic=True)

    def _signed_by_a_stranger(self) -> bytes:
        signed = pb.SignedUserContext.FromString(self._any())
        content = self._chance.choice([signed.context, self._chance.randbytes(100), b""])
        key_id = self._chance.choice([*KEYS, "sig-9", *_WORDS])
        domain = self._chance.choice([b"carrel.user-context.v1\n", b"carrel.service-identity.v1\n", b""])
        return pb.SignedUserContext(
            context=content, key_id=key_id, signature=STRANGER.sign(domain + content)
        ).SerializeToString(deterministic=True)


async def fuzz(cases: int, seed: int, report_each: int = 0) -> Result:
    """Tries so many wrong contexts, and a genuine one after each hundred."""
    chance = random.Random(seed)
    genuine = genuine_contexts(chance)
    forger = Forger(chance, genuine)
    verifier = ContextVerifier(Keys(), "event-stream", lambda: NOW + 1)
    result = Result()
    for number in range(1, cases + 1):
        forged = forger.make()
        try:
            await verifier.verify(forged)
            result.accepted.append(forged)
        except CarrelError as refusal:
            result.reasons[refusal.reason] += 1
        except Exception as error:
            result.crashes.append((forged, error))
        result.cases = number
        if number % 100 == 0:
            await ContextVerifier(Keys(), "event-stream", lambda: NOW + 1).verify(chance.choice(genuine))
            result.genuine += 1
        if report_each and number % report_each == 0:
            sys.stderr.write(f"{number} cases, {len(result.accepted)} accepted, {len(result.crashes)} crashes\n")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    begin = time.perf_counter()
    result = asyncio.run(fuzz(given.cases, given.seed, report_each=100_000))
    seconds = time.perf_counter() - begin
    print(
        f"{result.cases} wrong contexts, seed {given.seed}: {len(result.accepted)} accepted, {len(result.crashes)} crashes, "
        f"{result.genuine} genuine ones passed, in {seconds:.0f} s"
    )
    for reason, count in result.reasons.most_common():
        print(f"  {count:>9}  {reason}")
    for forged, error in result.crashes[:5]:
        print(f"  crash {error!r}: {forged.hex()}")
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())
