"""The database roles and schemas: who logs in, who owns, who sees which schema. The tables are the migrations' business.

carrel_owner     no login; owns the database, the schemas and all that the migrations make
carrel_migrator  logs in for migrations, acts as carrel_owner, owns nothing
a service's own  log in, own nothing, may create nothing, use one schema
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any

import asyncpg

from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.postgres_url import DATABASE, PostgresServer

OWNER = "carrel_owner"
MIGRATOR = "carrel_migrator"
SCHEMA_ROLES: Mapping[str, tuple[str, ...]] = {
    "context": ("carrel_context", "carrel_context_admin", "carrel_context_revocations"),
    "events": ("carrel_events", "carrel_events_writer", "carrel_events_retention"),
    "tools": ("carrel_tools", "carrel_tools_admin", "carrel_tools_keeper"),
    "execution": (
        "carrel_execution",
        "carrel_execution_runner",
        "carrel_execution_statistics",
        "carrel_execution_retention",
    ),
}
"""The roles that log in to work in a schema. All but the first see across users, by policies on just the tables they need."""
SERVICE_ROLES = tuple(role for roles in SCHEMA_ROLES.values() for role in roles)
LOGIN_ROLES = (*SERVICE_ROLES, MIGRATOR)

_POWERLESS = "NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION"
_SCRAM_ITERATIONS = 4096
# Two launchers that prepare one external server wait for each other here.
_BOOTSTRAP_LOCK = 0x0CA44E1


async def bootstrap(server: PostgresServer, passwords: Mapping[str, str], *, ours: bool) -> None:
    """Makes or mends roles, database and schemas; safe to call at each start.

    `ours` is the embedded server, whose other databases are closed to the service roles too.
    """
    try:
        admin = await _connect(server.admin_url)
        try:
            await admin.execute("SELECT pg_advisory_lock($1)", _BOOTSTRAP_LOCK)
            await _make_roles(admin, passwords)
            await _make_database(admin)
            if ours:
                await admin.execute("REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC")
            inside = await _connect(server.admin_url_of(DATABASE))
            try:
                await _make_schemas(inside)
            finally:
                await inside.close()
        finally:
            await admin.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StackError(
            f"PostgreSQL at {server.address} could not be prepared ({error}): "
            f"check the URL, and that its role may create roles and databases."
        ) from error


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url, timeout=10, command_timeout=30)


async def _make_roles(admin: Any, passwords: Mapping[str, str]) -> None:
    found = {row["rolname"]: row for row in await admin.fetch(_ROLES, [OWNER, *LOGIN_ROLES])}
    for role in (OWNER, *LOGIN_ROLES):
        login = "NOLOGIN" if role == OWNER else "LOGIN"
        if role not in found:
            await admin.execute(f"CREATE ROLE {role} {login} {_POWERLESS}")
        elif found[role]["powerful"] or found[role]["rolcanlogin"] != (login == "LOGIN"):
            await admin.execute(f"ALTER ROLE {role} {login} {_POWERLESS}")
    for role in LOGIN_ROLES:
        # A verifier rather than the password: no server log or statistics view ever shows it.
        await admin.execute(f"ALTER ROLE {role} PASSWORD '{scram_verifier(passwords[role])}'")
    for schema, roles in SCHEMA_ROLES.items():
        for role in roles:
            await admin.execute(f"ALTER ROLE {role} SET search_path = {schema}")
    await admin.execute(f"GRANT {OWNER} TO {MIGRATOR}")
    await admin.execute(f"ALTER ROLE {MIGRATOR} SET role = {OWNER}")
    await _check_memberships(admin)


_ROLES = """
SELECT rolname, rolcanlogin, rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole OR rolreplication AS powerful
FROM pg_roles WHERE rolname = ANY($1)
"""


async def _check_memberships(admin: Any) -> None:
    """A membership would lend a service role what the other role owns or may read."""
    row = await admin.fetchrow(
        "SELECT member::regrole::text AS role, roleid::regrole::text AS group_role FROM pg_auth_members "
        "WHERE member::regrole::text = ANY($1) LIMIT 1",
        [OWNER, *SERVICE_ROLES],
    )
    if row is not None:
        raise StackError(
            f"The database role {row['role']} is a member of {row['group_role']}, which would lend it rights: "
            f"say REVOKE {row['group_role']} FROM {row['role']}."
        )


async def _make_database(admin: Any) -> None:
    if not await admin.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        # Only a member may give a database away to a role.
        await admin.execute(f"GRANT {OWNER} TO CURRENT_USER")
    owner = await admin.fetchval("SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1", DATABASE)
    if owner is None:
        await admin.execute(
            f"CREATE DATABASE {DATABASE} OWNER {OWNER} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    elif owner != OWNER:
        raise StackError(
            f"The server has a database {DATABASE} that belongs to {owner}, not to {OWNER}: rename it or give it away."
        )
    await admin.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
    await admin.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {', '.join(LOGIN_ROLES)}")


async def _make_schemas(inside: Any) -> None:
    await inside.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    for schema, roles in SCHEMA_ROLES.items():
        await inside.execute(f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {OWNER}")
        await inside.execute(f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC")
        await inside.execute(f"GRANT USAGE ON SCHEMA {schema} TO {', '.join(roles)}")


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores for a password under scram-sha-256 (RFC 5803, as its documentation of pg_authid says)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{_base64(salt)}${_base64(stored)}:{_base64(server)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
