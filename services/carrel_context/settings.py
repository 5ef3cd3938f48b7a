"""What the context service reads from its environment."""

from __future__ import annotations

import base64
from pathlib import Path

from pydantic import Field, SecretStr, model_validator

from carrel_chassis.identity import NO_LIMITS, ResourceLimits
from carrel_chassis.settings import DatabaseSettings

_MASTER_KEY_BYTES = 32


class ContextSettings(DatabaseSettings):
    """The settings of the context service."""

    admin_database_url: SecretStr
    """As the role that administers one tenant at a time."""
    revocations_database_url: SecretStr
    """As the role that reads the revocations of all tenants."""
    session_revocation_seconds: float = 30 * 24 * 3600.0
    """How long a revoked session or run is remembered: as long as anything could still be renewed from it."""
    master_key_file: Path | None = None
    """A file of 32 bytes in base64: the private signing keys are encrypted under them in the database."""
    master_key: SecretStr = SecretStr("")
    """The same bytes, where they come from the environment or a secrets store and not from a file."""
    key_rotation_seconds: float = 7 * 24 * 3600.0
    """How long a signing key signs; then the next one is made. 0: only when an administrator asks for it."""
    key_announce_seconds: float = Field(default=90.0, ge=0.0)
    """How long a key is listed before it signs: longer than the services take to fetch it, which they do twice a minute."""
    key_poll_seconds: float = Field(default=5.0, gt=0.0)
    """How often a replica looks for the keys of the others."""
    user_limits: ResourceLimits = NO_LIMITS
    """JSON, as {"running_runs": 4}: limits of a user for whom none are set. Where there is none either, each service's own holds."""
    tenant_limits: ResourceLimits = NO_LIMITS
    """The same for all users of a tenant together."""
    threads_per_user: int = Field(default=10_000, ge=1)
    """How many threads a user may have."""
    provision_users: bool = True
    """Whether a user that the gateway has authenticated, and that is not known yet, is entered with the role "standard"."""
    grant_max_age_seconds: float = 30 * 24 * 3600.0
    """How long after its start a run may still be given contexts."""

    @model_validator(mode="after")
    def _consistent(self) -> ContextSettings:
        if (self.master_key_file is None) == (not self.master_key.get_secret_value()):
            raise ValueError("set either MASTER_KEY_FILE or MASTER_KEY")
        if self.session_revocation_seconds < self.grant_max_age_seconds:
            raise ValueError("with SESSION_REVOCATION_SECONDS below GRANT_MAX_AGE_SECONDS a revoked run could go on")
        return self

    def read_master_key(self) -> bytes:
        """The master key; raises OSError when its file cannot be read, and when it is not 32 bytes in base64."""
        text = self.master_key.get_secret_value() or (self.master_key_file or Path()).read_text()
        try:
            key = base64.b64decode(text.strip(), validate=True)
        except ValueError:
            key = b""
        if len(key) != _MASTER_KEY_BYTES:
            raise OSError(f"the master key is not {_MASTER_KEY_BYTES} bytes in base64")
        return key
