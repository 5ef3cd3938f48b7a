"""The public keys of the issuer: from a file, or from where the issuer says over HTTP. It checks no token."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import jwt

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger

ALGORITHMS = frozenset({"EdDSA", "RS256", "ES256"})
"""All are signatures: with a shared secret, whoever can check a token could also make one."""

_REREAD_SECONDS = 1.0
_REFETCH_SECONDS = 5.0
"""At most one fetch in this time, however many unknown key ids come: a flood of forged tokens must not reach the issuer."""
_FETCH_SECONDS = 5.0
_MAX_BYTES = 512 * 1024
_KEEP_SECONDS = 300.0
"""How long a key that the issuer has withdrawn may still be believed."""


class IssuerKeys(Protocol):
    """Finds the key of an id; None when the issuer lists none. Raises UNAVAILABLE when that cannot be told now."""

    async def find(self, key_id: str) -> jwt.PyJWK | None: ...


class JwksFile:
    """The keys from a file. A file that goes bad later leaves the keys that were read before."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._read_time = monotonic()
        try:
            self._keys = read_jwks(json.loads(path.read_text()))
        except ValueError as error:
            raise OSError(f"{path} is not a JWKS: {error}.") from None

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """An unknown id makes it read the file again, at most once a second, however many come."""
        if key_id not in self._keys and self._monotonic() - self._read_time >= _REREAD_SECONDS:
            self._read_time = self._monotonic()
            try:
                self._keys = read_jwks(json.loads(self._path.read_text()))
            except (OSError, ValueError) as error:
                get_logger().warning("jwks.unreadable", error=str(error))
        return self._keys.get(key_id)


class DiscoveredKeys:
    """The keys that the issuer lists (OpenID Connect Discovery 1.0). While it is away, those fetched before stay good."""

    def __init__(self, issuer: str, http: httpx.AsyncClient, monotonic: Callable[[], float]) -> None:
        self._issuer = issuer
        self._http = http
        self._monotonic = monotonic
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._asked = float("-inf")
        self._lock = asyncio.Lock()
        check_address(issuer)

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """An unknown id makes it fetch anew; those who come meanwhile wait for the same answer."""
        if key_id not in self._keys:
            async with self._lock:
                if key_id not in self._keys and self._monotonic() - self._asked >= self._pause():
                    await self._try()
            if not self._keys:
                raise CarrelError(
                    Kind.UNAVAILABLE,
                    "UNAVAILABLE",
                    "The issuer's keys cannot be fetched now; try again.",
                    retry_seconds=1.0,
                )
        return self._keys.get(key_id)

    async def keep_fresh(self) -> None:
        """For ever: fetches from time to time, so that a key that the issuer has withdrawn is soon forgotten."""
        while True:
            async with self._lock:
                await self._try()
            await asyncio.sleep(_KEEP_SECONDS if self._keys else _REREAD_SECONDS)

    def _pause(self) -> float:
        return _REFETCH_SECONDS if self._keys else _REREAD_SECONDS

    async def _try(self) -> None:
        try:
            self._keys = await self._fetch()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, TimeoutError) as error:
            get_logger().warning("oidc.unreachable", issuer=self._issuer, error=str(error) or type(error).__name__)
        finally:
            self._asked = self._monotonic()

    async def _fetch(self) -> Mapping[str, jwt.PyJWK]:
        async with asyncio.timeout(_FETCH_SECONDS):
            found = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if not isinstance(found, dict) or found.get("issuer") != self._issuer:
                raise ValueError("its configuration names another issuer")
            address = str(found.get("jwks_uri"))
            check_address(address)
            return read_jwks(await self._get(address))

    async def _get(self, address: str) -> Any:
        """The JSON at the address. No redirects: where keys come from is pinned."""
        async with self._http.stream("GET", address, headers={"accept": "application/json"}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"{address} answers {answer.status_code}")
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"{address} answers with more than {_MAX_BYTES} bytes")
        return json.loads(body)


def check_address(address: str) -> None:
    """Raises OSError unless it is https, or http on this machine: keys that travel in the open are anybody's."""
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _on_this_machine(parts.hostname):
        return
    raise OSError(f"{address} is no https address; the issuer's keys must come over TLS.")


def _on_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_jwks(document: Any) -> Mapping[str, jwt.PyJWK]:
    """The keys by id, those of other algorithms left out; raises ValueError when the document is no JWKS."""
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("it has no list `keys`")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        try:
            key = jwt.PyJWK.from_dict(entry)
        except (jwt.PyJWTError, AttributeError, TypeError):
            continue  # of a kind that is not known here; the issuer may list such for others
        if key.key_id and key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    return keys
