"""API keys: how one is written and compared. A key names its owner, so that it is looked up within that owner's rows alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass

from carrel_chassis.ids import is_id, new_id
from carrel_context.domain import credential_invalid

PREFIX = "ck_"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is shown once: whose it claims to be, which one, and its secret of 256 bits."""

    tenant_id: str
    user_id: str
    api_key_id: str
    secret: str

    def text(self) -> str:
        """The key as its user keeps it."""
        head = "\n".join((self.tenant_id, self.user_id, self.api_key_id)).encode()
        return f"{PREFIX}{base64.urlsafe_b64encode(head).decode().rstrip('=')}.{self.secret}"

    def digest(self) -> bytes:
        """What is stored. SHA-256 is enough: a random secret of 256 bits cannot be guessed, however fast the hash is."""
        return hashlib.sha256(self.text().encode()).digest()


def new_api_key(tenant_id: str, user_id: str) -> ApiKey:
    """A key with a fresh secret."""
    return ApiKey(tenant_id, user_id, new_id("key"), secrets.token_urlsafe(32))


def parse_api_key(text: str) -> ApiKey:
    """The parts of a key; raises CREDENTIAL_INVALID when it is none. Nothing in it is proved yet."""
    head, _, secret = text.removeprefix(PREFIX).partition(".")
    try:
        owner = base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        owner = ""
    parts = owner.split("\n")
    if not text.startswith(PREFIX) or not secret or len(parts) != 3 or not all(map(is_id, parts)):
        raise credential_invalid("The API key is not one of ours; use it as it was shown.")
    tenant_id, user_id, api_key_id = parts
    return ApiKey(tenant_id, user_id, api_key_id, secret)
