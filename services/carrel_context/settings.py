"""What the context service reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

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
    provision_users: bool = True
    """Whether a user that the gateway has authenticated, and that is not known yet, is entered with the role "standard"."""
    grant_max_age_seconds: float = 30 * 24 * 3600.0
    """How long after its start a run may still be given contexts."""
