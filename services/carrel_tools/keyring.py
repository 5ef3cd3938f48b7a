"""A key for each user, known to nobody who has not both the row and the master key. It knows no table and no file."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from carrel_chassis.errors import CarrelError, Kind

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16

Owner = tuple[str, str]


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """The key of a user as it is stored."""

    master: str
    """The name of the master key it is encrypted under."""
    text: str
    """In base64."""


@dataclass(frozen=True, slots=True)
class UserKey:
    """The key of a user, open; it lives as long as the call that needs it."""

    owner: Owner
    secret: bytes = field(repr=False)

    def seal(self, content: bytes, label: str) -> bytes:
        """The content encrypted, so that it opens for this owner under this label only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self.secret).encrypt(nonce, content, _bound(self.owner, label))

    def open(self, sealed: bytes, label: str) -> bytes:
        """The content; raises `Damaged` for what was not sealed by this key, for this owner, under this label."""
        try:
            return AESGCM(self.secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _bound(self.owner, label))
        except (InvalidTag, ValueError):
            raise Damaged from None

    def open_into(self, sealed: memoryview, label: str, buffer: memoryview) -> memoryview:
        """The content, written to the beginning of `buffer`; raises as `open` does. Fresh memory for each part costs more than that."""
        content = buffer[: max(0, len(sealed) - _NONCE_BYTES - _TAG_BYTES)]
        bound = _bound(self.owner, label)
        try:
            AESGCM(self.secret).decrypt_into(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound, content)
        except (InvalidTag, ValueError):
            raise Damaged from None
        return content


class Damaged(CarrelError):
    """What is stored is not what was stored."""

    def __init__(self) -> None:
        super().__init__(Kind.INTERNAL, "INTERNAL", "The stored bytes of a corpus are damaged; upload it again.")


class KeyRing:
    """Wraps and unwraps keys of users. The first of `masters` wraps; the others still unwrap what they have wrapped."""

    def __init__(self, masters: Mapping[str, bytes]) -> None:
        self._masters = {name: AESGCM(key) for name, key in masters.items()}
        self._newest = next(iter(masters))

    def new_key(self, owner: Owner) -> WrappedKey:
        """A new key for a user, wrapped."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._masters[self._newest].encrypt(nonce, os.urandom(KEY_BYTES), _bound(owner, "key"))
        return WrappedKey(self._newest, base64.b64encode(nonce + sealed).decode())

    def open(self, owner: Owner, wrapped: WrappedKey) -> UserKey:
        """The key itself; raises UNAVAILABLE when the master key is not at hand, `Damaged` when it is not the right one."""
        master = self._masters.get(wrapped.master)
        if master is None:
            raise CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", "The key of your corpora cannot be opened now.")
        raw = base64.b64decode(wrapped.text)
        try:
            return UserKey(owner, master.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(owner, "key")))
        except InvalidTag:
            raise Damaged from None


def read_masters(text: str) -> dict[str, bytes]:
    """The master keys in a text of lines, "NAME BASE64" or, for one alone, "BASE64"; raises ValueError."""
    masters: dict[str, bytes] = {}
    for line in text.split("\n"):
        match line.split():
            case [key]:
                masters["1"] = _key(key)
            case [name, key]:
                masters[name] = _key(key)
            case [_, *_]:
                raise ValueError("a line of the corpus key is neither a key nor a name and a key")
    if not masters:
        raise ValueError("there is no corpus key")
    return masters


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a corpus key is not {KEY_BYTES} bytes in base64")
    return key


def _bound(owner: Owner, label: str) -> bytes:
    return "\x00".join((*owner, label)).encode()
