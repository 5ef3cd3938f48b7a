"""The signing keys: announced, used, retired. At most two are active, so that what one has signed is good while the next one signs.

    make ── announced ── sign_time ── signs ── the next one's sign_time ── verifies ── + the longest life of a context ── retired

A retired key verifies no call any more. It still tells whether the grant of a run is genuine; its private half is destroyed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import MAX_LIFETIME_SECONDS
from carrel_chassis.ids import new_id
from carrel_chassis.logs import get_logger
from carrel_chassis.signing import CLOCK_SKEW_SECONDS, ContextSigner
from carrel_context import repository
from carrel_context.repository import StoredKey

OVERLAP_SECONDS = MAX_LIFETIME_SECONDS + 2 * CLOCK_SKEW_SECONDS
"""How long a key verifies after the next one has begun to sign: the longest life of a context, by the worst of clocks."""
_ASK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """The keys in the order in which they sign, and what each is good for at a time."""

    keys: Sequence[StoredKey]

    def signing(self, now: float) -> StoredKey:
        """The one that signs: the last whose time has come. The very first signs whatever the clock says."""
        return next((key for key in reversed(self.keys) if key.sign_time <= now), self.keys[0])

    def retire_time(self, key: StoredKey) -> float:
        """When it stops verifying; infinite while no other follows it."""
        after = [other.sign_time for other in self.keys if other.sign_time > key.sign_time]
        return min(after) + OVERLAP_SECONDS if after else float("inf")

    def active(self, now: float) -> list[StoredKey]:
        """Those that verify calls, newest first."""
        return [key for key in reversed(self.keys) if now <= self.retire_time(key)]


class KeyStore:
    """The keys as this process knows them; all replicas read the same rows, and make a new key under one lock."""

    def __init__(
        self,
        engine: Engine,
        cipher: AESGCM,
        clock: Callable[[], float],
        *,
        announce_seconds: float,
        rotation_seconds: float,
    ) -> None:
        self._engine = engine
        self._cipher = cipher
        self._clock = clock
        self._announce_seconds = announce_seconds
        self._rotation_seconds = rotation_seconds
        self._plan = KeyPlan(())
        self._signers: dict[str, ContextSigner] = {}
        self._public: dict[str, Ed25519PublicKey] = {}
        self._asked = float("-inf")

    @property
    def signer(self) -> ContextSigner:
        """Signs with the key whose time it is."""
        return self._signers[self._plan.signing(self._clock()).key_id]

    def active(self) -> list[StoredKey]:
        """The keys that verify calls now, newest first."""
        return self._plan.active(self._clock())

    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        """The key that verifies a call. An unknown one may be another replica's: the rows are read again, at most once a second."""
        if key_id not in self._public and time.monotonic() - self._asked >= _ASK_AGAIN_SECONDS:
            await self.refresh()
        return self._public[key_id] if any(key.key_id == key_id for key in self.active()) else None

    async def refresh(self) -> None:
        """Reads the keys; OSError when the master key does not open the one that signs."""
        self._asked = time.monotonic()
        async with database_errors(), self._engine.begin() as connection:
            self._learn(await repository.signing_keys(connection))

    async def open(self) -> None:
        """Reads the keys, or makes the first one, which signs at once."""
        async with database_errors(), self._engine.begin() as connection:
            await repository.lock_signing_keys(connection)
            keys = await repository.signing_keys(connection)
            if not keys:
                keys = [_new_key(self._cipher, self._clock())]
                await repository.add_signing_key(connection, keys[0])
        self._learn(keys)

    async def rotate(self) -> StoredKey:
        """Makes and announces the next key; ROTATION_TOO_SOON while two are active."""
        return await self._rotate(lambda plan: True) or self._plan.keys[-1]

    async def _rotate(self, wanted: Callable[[KeyPlan], bool]) -> StoredKey | None:
        async with database_errors(), self._engine.begin() as connection:
            await repository.lock_signing_keys(connection)
            now = self._clock()
            plan = KeyPlan(await repository.signing_keys(connection))
            if not wanted(plan):
                return None
            if len(active := plan.active(now)) > 1:
                raise _too_soon(plan.retire_time(active[-1]) - now)
            key = _new_key(self._cipher, now + self._announce_seconds)
            await repository.add_signing_key(connection, key)
        self._learn([*plan.keys, key])
        get_logger().info("keys.rotated", key_id=key.key_id, signs_in_seconds=self._announce_seconds)
        return key

    async def keep(self, poll_seconds: float) -> None:
        """For ever: learns of other replicas' keys, rotates by schedule, destroys what has retired. Runs as a task beside the server."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self.refresh()
                if self._rotation_seconds and self._due(self._plan):
                    await self._rotate(self._due)
                await self._destroy_retired()
            except CarrelError as error:
                get_logger().warning("keys.wait", reason=error.reason)
            except Exception:
                get_logger().exception("keys.failed")

    def _due(self, plan: KeyPlan) -> bool:
        now = self._clock()
        return len(plan.active(now)) == 1 and plan.keys[-1].sign_time + self._rotation_seconds <= now

    async def _destroy_retired(self) -> None:
        active = {key.key_id for key in self.active()}
        retired = [key.key_id for key in self._plan.keys if key.key_id not in active and key.private_key_encrypted]
        if retired:
            async with database_errors(), self._engine.begin() as connection:
                await repository.destroy_private_keys(connection, retired)

    def _learn(self, keys: Sequence[StoredKey]) -> None:
        plan = KeyPlan(sorted(keys, key=lambda key: key.sign_time))
        for key in plan.keys:
            if key.key_id not in self._public:
                self._public[key.key_id] = Ed25519PublicKey.from_public_bytes(key.public_key)
            if key.private_key_encrypted and key.key_id not in self._signers:
                self._signers[key.key_id] = ContextSigner(key.key_id, _private_key(key, self._cipher))
        self._plan = plan

    def of_grants(self) -> GrantKeys:
        """The keys by which grants are told to be genuine: all that ever signed."""
        return GrantKeys(self._public)


class GrantKeys:
    """Every key that ever signed: a run may be renewed long after the key of its grant has retired."""

    def __init__(self, keys: dict[str, Ed25519PublicKey]) -> None:
        self._keys = keys

    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        """A public key by its id."""
        return self._keys.get(key_id)


def _private_key(key: StoredKey, cipher: AESGCM) -> Ed25519PrivateKey:
    encrypted = key.private_key_encrypted
    try:
        return Ed25519PrivateKey.from_private_bytes(cipher.decrypt(encrypted[:12], encrypted[12:], key.key_id.encode()))
    except InvalidTag:
        raise OSError(
            "the signing keys in the database were encrypted under another master key; restore the file it was read from"
        ) from None


def _new_key(cipher: AESGCM, sign_time: float) -> StoredKey:
    private = Ed25519PrivateKey.generate()
    key_id, nonce = new_id("sig"), os.urandom(12)
    encrypted = nonce + cipher.encrypt(nonce, private.private_bytes_raw(), key_id.encode())
    # Milliseconds: the same number when it comes back from the database.
    return StoredKey(key_id, private.public_key().public_bytes_raw(), encrypted, round(sign_time, 3))


def _too_soon(seconds: float) -> CarrelError:
    return CarrelError(
        Kind.CONFLICT,
        "ROTATION_TOO_SOON",
        f"Two signing keys are active; the older one retires in {seconds:.0f} s, then rotate again.",
        metadata={"seconds": f"{seconds:.0f}"},
        retry_seconds=seconds,
    )
