"""What the context service reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from carrel_chassis.identity import NO_LIMITS, ResourceLimits
from carrel_chassis.settings import DatabaseSettings


class ContextSettings(DatabaseSettings):
    """The settings of the context service."""

    admin_database_url: SecretStr
    """As the role that administers one tenant at a time."""
    revocations_database_url: SecretStr
    """As the role that reads the revocations of all tenants."""
    session_revocation_seconds: float = 30 * 24 * 3600.0
    """How long a revoked session or run is remembered: as long as anything could still be renewed from it."""
    master_key_file: Path
    """32 bytes in base64: the private signing keys are encrypted under it in the database."""
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
