"""What people bring to the edge: API keys and JWTs. It reads a credential and checks a JWT; it asks no service and knows no call."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.ids import check_id
from carrel_chassis.signing import CLOCK_SKEW_SECONDS
from carrel_gateway.issuer_keys import ALGORITHMS, IssuerKeys

API_KEY_PREFIX = "ck_"
MAX_TOKEN_CHARACTERS = 8192
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


def one_authorization(values: Sequence[str | bytes]) -> str | bytes | None:
    """The only `authorization` header, None when there is none. Of two, a proxy before us may have checked the other one."""
    if len(values) > 1:
        raise refused("The call carries more than one `authorization`; send one.")
    return values[0] if values else None


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


class JwtChecker:
    """Checks JWTs: signature, issuer, audience, times, ids. Which algorithm holds is the key's to say, never the token's."""

    def __init__(
        self,
        keys: IssuerKeys,
        issuer: str,
        audience: str,
        tenant_claim: str,
        tenants: Mapping[str, str] | None = None,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._tenant_claim = tenant_claim
        self._tenants = tenants or {}

    async def check(self, token: str) -> Person:
        """Whom the token names; raises CREDENTIAL_INVALID with a sentence that says what is wrong with it."""
        try:
            claims = jwt.decode(
                token,
                await self._key_of(token),
                algorithms=sorted(ALGORITHMS),
                issuer=self._issuer,
                audience=self._audience,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": _REQUIRED_CLAIMS},
            )
        except jwt.PyJWTError as error:
            raise refused(_sentence(error)) from None
        return self._person(claims, token)

    async def _key_of(self, token: str) -> jwt.PyJWK:
        key_id = jwt.get_unverified_header(token).get("kid")
        key = await self._keys.find(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise jwt.InvalidKeyError("The token names no key of the issuer (kid)")
        return key

    def _person(self, claims: Mapping[str, Any], token: str) -> Person:
        # A session that is not named is still one: the same token is the same session, so that it can be revoked.
        token_id = str(claims.get("jti") or token)
        session_id = claims.get("sid") or f"jwt-{hashlib.sha256(token_id.encode()).hexdigest()[:32]}"
        return Person(
            tenant_id=self._tenant(claims),
            user_id=_checked_claim(claims["sub"], "sub"),
            session_id=_checked_claim(session_id, "sid"),
            expire_time=float(claims["exp"]) + CLOCK_SKEW_SECONDS,
        )

    def _tenant(self, claims: Mapping[str, Any]) -> str:
        value = _claim(claims, self._tenant_claim)
        if not self._tenants:
            return _checked_claim(value, self._tenant_claim)
        tenant = self._tenants.get(value) if isinstance(value, str) else None
        if tenant is None:
            raise refused(f"The token's claim {self._tenant_claim} names no tenant that this gateway serves.")
        return tenant


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this name, dots and all, or else the one at the path that the dots make."""
    if name in claims:
        return claims[name]
    first, dot, rest = name.partition(".")
    inner = claims.get(first)
    return _claim(inner, rest) if dot and isinstance(inner, dict) else None


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

    async def read(self, token: str) -> ApiKey | Person:
        """The principal that the token claims, proved for a JWT; raises CREDENTIAL_INVALID."""
        if token.startswith(API_KEY_PREFIX):
            return ApiKey(token)
        if self._jwts is None:
            raise refused("This gateway takes API keys only; the token is none.")
        return await self._jwts.check(token)
