"""An OpenID issuer on this machine, as far as a gateway sees one: its discovery document and its keys, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class HttpIssuer:
    """Serves while it is `up`; counts what it is asked. A test changes what it answers."""

    def __init__(self) -> None:
        self.keys: dict[str, Ed25519PrivateKey] = {}
        self.changes: dict[str, Any] = {}
        """Of the discovery document."""
        self.asked: list[str] = []
        self.state = 200
        self.held = asyncio.Event()
        self.held.set()
        """Cleared: connections are taken and nothing is answered."""
        self.address = ""

    def new_key(self, key_id: str) -> None:
        self.keys = {**self.keys, key_id: Ed25519PrivateKey.generate()}

    def token(self, key_id: str, claims: dict[str, Any]) -> str:
        return jwt.encode({**claims, "iss": self.address}, self.keys[key_id], "EdDSA", headers={"kid": key_id})

    def _document(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.address, "jwks_uri": f"{self.address}/keys", **self.changes}
        described = [
            {**jwt.get_algorithm_by_name("EdDSA").to_jwk(key.public_key(), as_dict=True), "kid": key_id, "alg": "EdDSA"}  # type: ignore[call-overload]
            for key_id, key in self.keys.items()
        ]
        return {"keys": described}

    async def answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            path = (await source.readline()).split()[1].decode()
            while await source.readline() not in (b"\r\n", b""):
                pass
            self.asked.append(path)
            await self.held.wait()
            body = json.dumps(self._document(path)).encode()
            head = f"HTTP/1.1 {self.state} X\r\ncontent-length: {len(body)}\r\nlocation: /elsewhere\r\nconnection: close\r\n\r\n"
            sink.write(head.encode() + body)
            await sink.drain()
        except (ConnectionError, IndexError):
            pass
        finally:
            sink.close()


@asynccontextmanager
async def http_issuer() -> AsyncIterator[HttpIssuer]:
    issuer = HttpIssuer()
    server = await asyncio.start_server(issuer.answer, "127.0.0.1", 0)
    issuer.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    issuer.new_key("one")
    try:
        yield issuer
    finally:
        issuer.held.set()
        server.close()
