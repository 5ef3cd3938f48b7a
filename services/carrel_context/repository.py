"""The tables of the context service: users and API keys of one owner at a time, and the signing keys, which are nobody's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import NO_LIMITS, ResourceLimits
from carrel_context.domain import LIMITS, Principal

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

# What stands against the user is read in the same statement: no context is issued past a revocation that is committed.
_LIMITS = f"ARRAY[{', '.join(LIMITS)}]"
_STANDING = f"""
    (SELECT {_LIMITS} FROM user_limit WHERE {OWN}) AS limits,
    (SELECT {_LIMITS} FROM tenant_limit WHERE tenant_id = :tenant_id) AS tenant_limits,
    against.removed, against.revoked, against.change_time,
    EXISTS (SELECT FROM session WHERE {OWN} AND session_id = :session_id
            AND last_seen_time > now() - interval '15 minutes') AS session_seen
"""
_AGAINST = f"""(
    SELECT coalesce(array_agg(value) FILTER (WHERE what = 'SCOPE' AND revoked), '{{}}') AS removed,
           coalesce(min(what) FILTER (WHERE what <> 'SCOPE' AND revoked), '') AS revoked,
           CAST(coalesce(extract(epoch FROM max(change_time) FILTER (WHERE what <> 'SCOPE')), 0) AS float8) AS change_time
    FROM revocation
    WHERE {OWN} AND (what IN ('USER', 'SCOPE') OR what = 'SESSION' AND value = :session_id OR what = 'RUN' AND value = :run_id)
) AS against"""
GET_USER = text(f"""
    SELECT tenant_id, user_id, role, disabled, granted_scopes, {_STANDING} FROM app_user CROSS JOIN {_AGAINST} WHERE {OWN}
""")
ADD_USER = text("""
    INSERT INTO app_user (tenant_id, user_id, role) VALUES (:tenant_id, :user_id, 'standard')
    ON CONFLICT (tenant_id, user_id) DO NOTHING
""")
SEE_SESSION = text("""
    INSERT INTO session (tenant_id, user_id, session_id, kind) VALUES (:tenant_id, :user_id, :session_id, :kind)
    ON CONFLICT (tenant_id, user_id, session_id) DO UPDATE SET last_seen_time = now()
""")
ADD_TENANT = text("INSERT INTO tenant (tenant_id) VALUES (:tenant_id) ON CONFLICT (tenant_id) DO NOTHING")
GET_API_KEY = text(f"""
    SELECT u.tenant_id, u.user_id, u.role, u.disabled, u.granted_scopes, {_STANDING}, k.secret_sha256
    FROM (SELECT * FROM api_key WHERE {OWN}) k JOIN app_user u USING (tenant_id, user_id) CROSS JOIN {_AGAINST}
    WHERE k.api_key_id = :api_key_id AND k.revoke_time IS NULL
""")

LIST_SIGNING_KEYS = text("""
    SELECT key_id, public_key, private_key_encrypted, CAST(extract(epoch FROM sign_time) AS float8)
    FROM signing_key ORDER BY sign_time
""")
ADD_SIGNING_KEY = text("""
    INSERT INTO signing_key (key_id, public_key, private_key_encrypted, sign_time)
    VALUES (:key_id, :public_key, :private_key_encrypted, to_timestamp(CAST(:sign_time AS float8)))
""")
DESTROY_PRIVATE_KEYS = text("UPDATE signing_key SET private_key_encrypted = '' WHERE key_id = ANY(:key_ids)")
LOCK_SIGNING_KEYS = text("SELECT pg_advisory_xact_lock(hashtext('carrel.signing_key'))")


class Directory:
    """The users and keys that one transaction sees: those of the owner it is bound to."""

    def __init__(self, connection: Connection, tenant_id: str, user_id: str) -> None:
        self._connection = connection
        self._owner = {"tenant_id": tenant_id, "user_id": user_id}

    async def user(self, session_id: str = "", run_id: str = "") -> Principal | None:
        """The owner, if known, with what stands against a context of this session or run."""
        values = {**self._owner, "session_id": session_id, "run_id": run_id}
        row = (await self._connection.execute(GET_USER, values)).one_or_none()
        return _principal(row) if row else None

    async def add_user(self) -> None:
        """Enters the owner with the standard role, and the tenant, unless somebody was faster."""
        await self._connection.execute(ADD_TENANT, {"tenant_id": self._owner["tenant_id"]})
        await self._connection.execute(ADD_USER, self._owner)

    async def see_session(self, session_id: str, kind: str) -> None:
        """Writes down that the session is in use now."""
        await self._connection.execute(SEE_SESSION, {**self._owner, "session_id": session_id, "kind": kind})

    async def api_key(self, api_key_id: str) -> tuple[Principal, bytes] | None:
        """The owner of a live key and the key's digest."""
        values = {**self._owner, "api_key_id": api_key_id, "session_id": api_key_id, "run_id": ""}
        row = (await self._connection.execute(GET_API_KEY, values)).one_or_none()
        return (_principal(row), row.secret_sha256) if row else None


def _principal(row: Row) -> Principal:
    tenant_id, user_id, role, disabled, granted, limits, tenant_limits, removed, revoked, change_time, seen, *_ = row
    return Principal(
        tenant_id,
        user_id,
        role,
        disabled,
        frozenset(granted),
        frozenset(removed),
        revoked,
        ResourceLimits(*limits) if limits else NO_LIMITS,
        ResourceLimits(*tenant_limits) if tenant_limits else NO_LIMITS,
        change_time,
        seen,
    )


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key as it lies in the database. `private_key_encrypted` is empty once it was destroyed."""

    key_id: str
    public_key: bytes
    private_key_encrypted: bytes
    sign_time: float
    """From then on it signs, until the next one does; seconds since the epoch."""


async def lock_signing_keys(connection: Connection) -> None:
    """Keeps other processes from making a key until the transaction ends, so that all agree on one."""
    await connection.execute(LOCK_SIGNING_KEYS)


async def signing_keys(connection: Connection) -> list[StoredKey]:
    """All signing keys, in the order in which they sign."""
    return [StoredKey(*row) for row in await connection.execute(LIST_SIGNING_KEYS)]


async def add_signing_key(connection: Connection, key: StoredKey) -> None:
    """Stores a new signing key."""
    values = {
        "key_id": key.key_id,
        "public_key": key.public_key,
        "private_key_encrypted": key.private_key_encrypted,
        "sign_time": key.sign_time,
    }
    await connection.execute(ADD_SIGNING_KEY, values)


async def destroy_private_keys(connection: Connection, key_ids: Sequence[str]) -> None:
    """Forgets the private halves: nothing can be signed with these keys any more."""
    await connection.execute(DESTROY_PRIVATE_KEYS, {"key_ids": list(key_ids)})
