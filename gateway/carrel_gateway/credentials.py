"""What people bring to the edge: API keys and JWTs. It reads a credential and checks a JWT; it asks no service and knows no call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.ids import check_id
from carrel_chassis.logs import get_logger
from carrel_chassis.signing import CLOCK_SKEW_SECONDS

API_KEY_PREFIX = "ck_"
MAX_TOKEN_CHARACTERS = 8192
ALGORITHMS = frozenset({"EdDSA", "RS256", "ES256"})
"""All are signatures: with a shared secret, whoever can check a token could also make one."""

_REREAD_SECONDS = 1.0
_REQUIRED_CLAIMS = ["exp", "iss", "aud", "sub"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it came. Only the context service can tell whether it is good."""

    text: str


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a checked JWT names, and until when it may be believed, in seconds since the epoch."""

    tenant_id: str
    user_id: str
    session_id: str
    expire_time: float


def refused(message: str) -> CarrelError:
    """The error for a credential that is wrong."""
    return CarrelError(Kind.UNAUTHENTICATED, "CREDENTIAL_INVALID", message)


def bearer_token(authorization: str | bytes | None) -> str:
    """The token of an `authorization` header; raises CREDENTIAL_MISSING when there is none."""
    scheme, _, token = authorization.partition(" ") if isinstance(authorization, str) else ("", "", "")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise CarrelError(
            Kind.UNAUTHENTICATED,
            "CREDENTIAL_MISSING",
            "The call carries no credential; send `authorization: Bearer <API key or JWT>`.",
        )
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise refused(f"The token has {len(token)} characters; it has at most {MAX_TOKEN_CHARACTERS}.")
    return token


class JwksFile:
    """The public keys of the issuer, from a file. A file that goes bad later leaves the keys that were read before."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._read_time = monotonic()
        try:
            self._keys = _read_jwks(path)
        except ValueError as error:
            raise OSError(f"{path} is not a JWKS: {error}.") from None

    def get(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id. An unknown one makes it read the file again, at most once a second, however many come."""
        if key_id not in self._keys and self._monotonic() - self._read_time >= _REREAD_SECONDS:
            self._read_time = self._monotonic()
            try:
                self._keys = _read_jwks(self._path)
            except (OSError, ValueError) as error:
                get_logger().warning("jwks.unreadable", error=str(error))
        return self._keys.get(key_id)


def _read_jwks(path: Path) -> Mapping[str, jwt.PyJWK]:
    """The keys by id, those of other algorithms left out; raises ValueError when the file is no JWKS."""
    document = json.loads(path.read_text())
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


class JwtChecker:
    """Checks JWTs: signature, issuer, audience, times, ids. Which algorithm holds is the key's to say, never the token's."""

    def __init__(self, keys: JwksFile, issuer: str, audience: str, tenant_claim: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._tenant_claim = tenant_claim

    def check(self, token: str) -> Person:
        """Whom the token names; raises CREDENTIAL_INVALID with a sentence that says what is wrong with it."""
        try:
            claims = jwt.decode(
                token,
                self._key_of(token),
                algorithms=sorted(ALGORITHMS),
                issuer=self._issuer,
                audience=self._audience,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": _REQUIRED_CLAIMS},
            )
        except jwt.PyJWTError as error:
            raise refused(_sentence(error)) from None
        return self._person(claims, token)

    def _key_of(self, token: str) -> jwt.PyJWK:
        header = jwt.get_unverified_header(token)
        key_id = header.get("kid")
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise jwt.InvalidKeyError("The token names no key of the issuer (kid)")
        return key

    def _person(self, claims: Mapping[str, Any], token: str) -> Person:
        # A session that is not named is still one: the same token is the same session, so that it can be revoked.
        token_id = str(claims.get("jti") or token)
        session_id = claims.get("sid") or f"jwt-{hashlib.sha256(token_id.encode()).hexdigest()[:32]}"
        return Person(
            tenant_id=_checked_claim(claims.get(self._tenant_claim), self._tenant_claim),
            user_id=_checked_claim(claims["sub"], "sub"),
            session_id=_checked_claim(session_id, "sid"),
            expire_time=float(claims["exp"]) + CLOCK_SKEW_SECONDS,
        )


def _checked_claim(value: object, claim: str) -> str:
    if not isinstance(value, str):
        raise refused(f"The token's claim {claim} is missing or no text; it must hold an id.")
    try:
        return check_id(value, claim)
    except CarrelError as error:
        raise refused(f"The token's claim {claim} is no id: {error.message}") from None


def _sentence(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "The token has expired; get a new one."
        case jwt.InvalidIssuerError():
            return "The token is from another issuer than this gateway believes."
        case jwt.InvalidAudienceError():
            return "The token was made for another audience."
        case jwt.MissingRequiredClaimError(claim=claim):
            return f"The token's claim {claim} is missing."
        case jwt.InvalidAlgorithmError():
            return "The token is signed with an algorithm that is not accepted."
        case jwt.ImmatureSignatureError():
            return "The token is not valid yet; one of the clocks is wrong."
        case jwt.InvalidKeyError():
            return "The token names no key of the issuer (kid); get a new one."
        case jwt.InvalidSignatureError():
            return "The token's signature does not fit its content."
        case _:
            return "The credential is neither an API key nor a JWT."


class Credentials:
    """Tells what a token is, and checks it as far as that needs no other service."""

    def __init__(self, jwts: JwtChecker | None) -> None:
        self._jwts = jwts

    def read(self, token: str) -> ApiKey | Person:
        """The principal that the token claims, proved for a JWT; raises CREDENTIAL_INVALID."""
        if token.startswith(API_KEY_PREFIX):
            return ApiKey(token)
        if self._jwts is None:
            raise refused("This gateway takes API keys only; the token is none.")
        return self._jwts.check(token)
