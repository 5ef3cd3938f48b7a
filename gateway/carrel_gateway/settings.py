"""What the gateway reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from carrel_chassis.settings import ServiceSettings

DEVELOPMENT_ISSUER = "carrel-development"
"""The issuer that the launcher makes on one machine: whoever can read its data folder can be anybody."""


class GatewaySettings(ServiceSettings):
    """Where the gateway listens, besides `listen`, and whose JWTs it believes."""

    http_listen: str
    """`host:port` of HTTP/JSON and SSE; port 0 takes a free one."""
    jwks_file: Path | None = None
    """The issuer's public keys as a JWKS; read again when a token names a key that it lacks. None: API keys only."""
    jwt_issuer: str = ""
    """What `iss` must be."""
    jwt_audience: str = ""
    """What `aud` must be or hold."""
    jwt_tenant_claim: str = "tenant"
    """The claim that names the tenant; `sub` names the user."""

    @model_validator(mode="after")
    def _pinned(self) -> GatewaySettings:
        if self.jwks_file is not None and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("with JWKS_FILE set, JWT_ISSUER and JWT_AUDIENCE must be set too")
        return self
