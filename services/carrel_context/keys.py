"""The signing keys: made once, kept encrypted, used by this process alone."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.ext.asyncio import AsyncEngine

from carrel_chassis.ids import new_id
from carrel_chassis.signing import ContextSigner
from carrel_context.repository import StoredKey, add_signing_key, signing_keys


class KeyStore:
    """The key that signs now, and the public keys of all that may still be met."""

    def __init__(self, signer: ContextSigner, public_keys: dict[str, bytes]) -> None:
        self.signer = signer
        self.public_keys = public_keys
        self._parsed = {key_id: Ed25519PublicKey.from_public_bytes(raw) for key_id, raw in public_keys.items()}

    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        """A public key by its id, as verifiers ask for it."""
        return self._parsed.get(key_id)


def read_master_key(path: Path) -> AESGCM:
    """The cipher of the private keys, from a file of 32 bytes in base64."""
    return AESGCM(base64.b64decode(path.read_text().strip(), validate=True))


async def open_key_store(engine: AsyncEngine, cipher: AESGCM) -> KeyStore:
    """Reads the keys, or makes the first; raises OSError when the master key does not open them."""
    async with engine.begin() as connection:
        keys = await signing_keys(connection)
        if not keys:
            keys = [_new_key(cipher)]
            await add_signing_key(connection, keys[0])
    newest = keys[0]
    try:
        private = cipher.decrypt(
            newest.private_key_encrypted[:12], newest.private_key_encrypted[12:], newest.key_id.encode()
        )
    except InvalidTag:
        raise OSError(
            "the signing keys in the database were encrypted under another master key; restore the file it was read from"
        ) from None
    signer = ContextSigner(newest.key_id, Ed25519PrivateKey.from_private_bytes(private))
    return KeyStore(signer, {key.key_id: key.public_key for key in keys})


def _new_key(cipher: AESGCM) -> StoredKey:
    private = Ed25519PrivateKey.generate()
    key_id, nonce = new_id("sig"), os.urandom(12)
    encrypted = nonce + cipher.encrypt(nonce, private.private_bytes_raw(), key_id.encode())
    return StoredKey(key_id, private.public_key().public_bytes_raw(), encrypted)
