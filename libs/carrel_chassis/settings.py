"""What every service reads from its environment, once, at its start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """One frozen object per process; each field is read from `CARREL_<FIELD>`. A service adds its own fields in a subclass.

    A field without a variable is read from the file `carrel_<field>` in the folder that `CARREL_SECRETS_DIR` names, if it
    is set: that is how a deployment hands over passwords and key files (`carrel_chassis.deploy` writes such folders).
    """

    model_config = SettingsConfigDict(env_prefix="CARREL_", frozen=True, extra="ignore")

    listen: str
    """`host:port` of the gRPC server; port 0 takes a free one."""
    service_key_file: Path
    """The service's own Ed25519 key: 32 bytes in base64, readable by the service alone."""
    service_trust_file: Path
    """JSON: the public key of each service by name, 32 bytes in base64."""
    peer_ca_file: Path | None = None
    """The authority whose certificates the services believe of each other, PEM. With the next two: TLS between services, both ways."""
    peer_cert_file: Path | None = None
    """This service's certificate chain, PEM; its DNS name is the service's own, as "agent-execution". Read again when it changes."""
    peer_key_file: Path | None = None
    """Its private key, PEM without a password."""
    context_address: str = ""
    execution_address: str = ""
    tools_address: str = ""
    events_address: str = ""
    """`host:port` of the other services, those that this one calls."""
    nats_url: SecretStr = SecretStr("")
    """`nats://user:password@host:port`; empty where the service uses none."""
    metrics_listen: str = ""
    """`host:port` of the Prometheus page; empty for none."""
    otlp_endpoint: str = ""
    """`host:port` of an OTLP gRPC collector for traces; empty for none."""
    log_level: str = "INFO"
    drain_seconds: float = 5.0
    """How long calls in flight may go on after SIGTERM."""
    default_deadline_seconds: float = 30.0
    """The deadline of a call that brings none and whose method states none."""
    revocation_poll_seconds: float = 1.0
    """How often it is asked what has been revoked, in case a push was lost."""
    revocation_stale_seconds: float = 10.0
    """After so long without an answer the health service says NOT_SERVING for "revocations"."""
    revocation_fail_closed: bool = False
    """Whether calls of users are then refused. If not, what is known stays refused, and a context lives for 5 minutes at most."""
    stream_max_age_seconds: float = 3600.0
    """After this a stream ends with its cursor, however long the caller's deadline is."""

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        if len({self.peer_ca_file is None, self.peer_cert_file is None, self.peer_key_file is None}) > 1:
            raise ValueError("PEER_CA_FILE, PEER_CERT_FILE and PEER_KEY_FILE go together; set all or none")
        return self

    def in_effect(self) -> dict[str, Any]:
        """The settings as they are, secrets masked, for the log line of the start: a misspelt variable shows by its absence."""
        return self.model_dump(mode="json")


class DatabaseSettings(ServiceSettings):
    """The settings of a service with tables."""

    database_url: SecretStr
    """`postgresql+asyncpg://role:password@host:port/database`, as the service's own login role."""
    database_pool_size: int = 8
    user_database_sessions: int = 5
    """How many sessions one user may have open at a time in this process."""
    user_session_wait_seconds: float = 5.0
    """How long a session waits for its turn before it is refused."""
