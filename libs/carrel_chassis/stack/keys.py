"""The keys of a system on one machine: an identity for each service, the key at rest, a JWT issuer for development."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carrel_chassis.stack.files import write_private

IDENTITIES = ("context", "agent-execution", "tool-dispatch", "event-stream", "gateway", "operator")
"""Who may present a service identity; `operator` is the person at the command line."""
JWT_ISSUER = "carrel-development"
JWT_AUDIENCE = "carrel"


def ensure_keys(folder: Path) -> None:
    """Makes the keys that are missing and the public files that follow from them."""
    trust = {name: _text(_public(_secret(folder / f"{name}.key"))) for name in IDENTITIES}
    _write_if_changed(folder / "trust.json", json.dumps(trust, indent=1))
    _secret(folder / "master.key")
    _secret(folder / "corpus.key")
    issuer = _public(_secret(folder / "dev-issuer.key"))
    _write_if_changed(folder / "jwks.json", json.dumps({"keys": [_jwk(issuer)]}, indent=1))


def _secret(path: Path) -> bytes:
    """32 random bytes, made once; any 32 bytes are an Ed25519 private key."""
    if not path.exists():
        write_private(path, _text(secrets.token_bytes(32)))
    return base64.b64decode(path.read_text())


def _public(private: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _jwk(public: bytes) -> dict[str, str]:
    """RFC 8037, with the thumbprint of RFC 7638 as the key id: it follows from the key and nothing else."""
    required = {"crv": "Ed25519", "kty": "OKP", "x": _url_text(public)}
    thumbprint = hashlib.sha256(json.dumps(required, separators=(",", ":"), sort_keys=True).encode()).digest()
    return {**required, "kid": _url_text(thumbprint), "alg": "EdDSA", "use": "sig"}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _url_text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_private(path, text)
