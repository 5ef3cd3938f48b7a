"""What the gateway reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from carrel_chassis.errors import CarrelError
from carrel_chassis.ids import check_id
from carrel_chassis.settings import ServiceSettings
from carrel_gateway.admission import Limits

DEVELOPMENT_ISSUER = "carrel-development"
"""The issuer that the launcher makes on one machine: whoever can read its data folder can be anybody."""


class GatewaySettings(ServiceSettings):
    """Where the gateway listens, besides `listen`, whose JWTs it believes, and how much it lets through."""

    http_listen: str
    """`host:port` of HTTP/JSON and SSE; port 0 takes a free one."""
    tls_cert_file: Path | None = None
    """The certificate chain of both faces, PEM; read again when it changes, for the next connections. None: no TLS."""
    tls_key_file: Path | None = None
    """Its private key, PEM without a password."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the HTTP face from a browser, `["https://desk.example"]`; none unless they are named."""

    jwks_file: Path | None = None
    """The issuer's public keys as a JWKS; read again when a token names a key that it lacks."""
    oidc_discovery: bool = False
    """Fetches the keys over HTTP instead, from where the issuer's own `/.well-known/openid-configuration` says. With neither of
    the two: API keys only."""
    jwt_issuer: str = ""
    """What `iss` must be."""
    jwt_audience: str = ""
    """What `aud` must be or hold."""
    jwt_tenant_claim: str = "tenant"
    """The claim that names the tenant, or a path to one within another, `organization.id`; `sub` names the user."""
    jwt_tenants: dict[str, str] = Field(default_factory=dict)
    """The tenant of each value of that claim, `{"0b9f...": "acme"}`; other values are refused then. Empty: the value is the tenant."""

    user_calls_per_second: PositiveFloat = 1000.0
    """Of one user, at all replicas together; this and the following are limits against floods, not quotas that are sold."""
    tenant_calls_per_second: PositiveFloat = 10_000.0
    """Of all users of one tenant."""
    method_calls_per_second: dict[str, PositiveFloat] = Field(
        default_factory=lambda: {"StartRun": 600.0, "UploadCorpus": 50.0}
    )
    """Of one user, for single methods, by the name that the gateway's proto gives them."""
    wrong_credentials_per_second: PositiveFloat = 20.0
    """From one address; then new ones from there are not looked at for a while, and known ones go on. Set it high behind a proxy,
    where everybody comes from the same address, and let the proxy limit."""
    burst_seconds: PositiveFloat = 2.0
    """So much of a rate may come at once after a pause."""
    user_streams: PositiveInt = 100
    """How many streams one user may have open."""
    tenant_streams: PositiveInt = 5000
    """How many all users of a tenant may."""
    calls_under_way: PositiveInt = 1024
    """How many calls this process answers at a time; beyond it sheds, so that those it has taken are answered soon."""
    gateway_replicas: PositiveInt = 1
    """How many gateways there are: each holds an equal share of every limit but `calls_under_way`."""
    upload_max_bytes: PositiveInt = 256 * 1024 * 1024
    """The greatest upload that is passed on; tool-dispatch has limits of its own."""
    grpc_connections: PositiveInt = 4096
    """How many connections the gRPC face has open at a time; one more is closed at once."""
    connection_calls: PositiveInt = 1000
    """How many calls and streams one of them may have open at a time; a client opens another connection for more."""
    http_connections: PositiveInt = 4096
    """How many connections the HTTP face has open at a time; one more is closed at once."""
    http_head_seconds: PositiveFloat = 10.0
    """How long a client may take to send a request's head, and to send anything at all after it has connected."""

    @property
    def jwts(self) -> bool:
        """Whether JWTs are taken, beside API keys."""
        return self.jwks_file is not None or self.oidc_discovery

    def limits(self) -> Limits:
        """What admission needs to know."""
        return Limits(
            user_calls_per_second=self.user_calls_per_second,
            tenant_calls_per_second=self.tenant_calls_per_second,
            method_calls_per_second=self.method_calls_per_second,
            burst_seconds=self.burst_seconds,
            user_streams=self.user_streams,
            tenant_streams=self.tenant_streams,
            calls_under_way=self.calls_under_way,
            replicas=self.gateway_replicas,
        )

    @field_validator("jwt_tenants")
    @classmethod
    def _ids(cls, tenants: dict[str, str]) -> dict[str, str]:
        for tenant in tenants.values():
            try:
                check_id(tenant, "tenant_id")
            except CarrelError as error:
                raise ValueError(error.message) from None
        return tenants

    @model_validator(mode="after")
    def _pinned(self) -> GatewaySettings:
        if self.jwts and not (self.jwt_issuer and self.jwt_audience):
            raise ValueError("with JWKS_FILE or OIDC_DISCOVERY set, JWT_ISSUER and JWT_AUDIENCE must be set too")
        if self.jwks_file is not None and self.oidc_discovery:
            raise ValueError("JWKS_FILE and OIDC_DISCOVERY are two sources of the same keys; set one")
        return self

    @model_validator(mode="after")
    def _whole(self) -> GatewaySettings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TLS_CERT_FILE and TLS_KEY_FILE go together; set both or none")
        if self.gateway_replicas > min(self.user_streams, self.tenant_streams):
            raise ValueError("USER_STREAMS and TENANT_STREAMS must leave each of the GATEWAY_REPLICAS at least one")
        return self
