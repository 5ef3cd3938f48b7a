"""Contexts that must be refused, and genuine ones with any content: tests hold the keys that nobody else holds."""

from __future__ import annotations

import base64
import secrets
import time
from dataclasses import replace
from pathlib import Path

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carrel.api.context.v1 import user_context_pb2 as pb
from carrel_chassis.identity import UserContext
from carrel_chassis.signing import ContextSigner
from tests.support.system import Person, System


async def genuine_signer(system: System) -> ContextSigner:
    """The context service's own signer, opened with the master key of the data folder."""
    url = system.database_url("carrel_context", driver="postgresql")
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT key_id, private_key_encrypted FROM context.signing_key ORDER BY create_time DESC LIMIT 1"
        )
    finally:
        await connection.close()
    cipher = AESGCM(base64.b64decode(_read(system.data_dir / "keys" / "master.key")))
    encrypted = row["private_key_encrypted"]
    private = cipher.decrypt(encrypted[:12], encrypted[12:], row["key_id"].encode())
    return ContextSigner(row["key_id"], Ed25519PrivateKey.from_private_bytes(private))


def _read(path: Path) -> str:
    return path.read_text().strip()


def raw(signed: pb.SignedUserContext) -> bytes:
    """What goes into the metadata."""
    return signed.SerializeToString(deterministic=True)


def forgeries(signer: ContextSigner, person: Person) -> dict[str, tuple[bytes, str]]:
    """Every way in which a context can be wrong, each with the reason it must be refused for."""
    good = pb.SignedUserContext.FromString(person.signed_context)
    user: UserContext = person.context
    now = time.time()
    imposter = ContextSigner(signer.key_id, Ed25519PrivateKey.generate())
    stranger = ContextSigner("sig-" + secrets.token_hex(8), Ed25519PrivateKey.generate())
    renamed = good.context.replace(person.user_id.encode(), b"x" * len(person.user_id))
    swapped = pb.SignedUserContext(
        context=good.context, key_id=good.key_id, signature=signer.sign(replace(user, depth=1)).signature
    )
    return {
        "random": (secrets.token_bytes(300), "CONTEXT_MALFORMED"),
        "truncated": (person.signed_context[:-20], "CONTEXT_MALFORMED"),
        "oversized": (person.signed_context + b"\x00" * 1600, "CONTEXT_MALFORMED"),
        "with more": (person.signed_context + b"\x22\x01x", "CONTEXT_MALFORMED"),
        "another user's name": (
            raw(pb.SignedUserContext(context=renamed, key_id=good.key_id, signature=good.signature)),
            "CONTEXT_SIGNATURE_INVALID",
        ),
        "another context's signature": (raw(swapped), "CONTEXT_SIGNATURE_INVALID"),
        "forged key": (raw(imposter.sign(user)), "CONTEXT_SIGNATURE_INVALID"),
        "unknown key": (raw(stranger.sign(user)), "CONTEXT_KEY_UNKNOWN"),
        "expired": (raw(signer.sign(replace(user, issue_time=now - 900, expire_time=now - 600))), "CONTEXT_EXPIRED"),
        "from the future": (
            raw(signer.sign(replace(user, issue_time=now + 600, expire_time=now + 900))),
            "CONTEXT_NOT_YET_VALID",
        ),
        "for another service": (
            raw(signer.sign(replace(user, audiences=frozenset({"elsewhere"})))),
            "AUDIENCE_MISMATCH",
        ),
    }
