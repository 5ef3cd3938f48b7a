"""The database roles hold no power, and the engines let nobody in without a password."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import nats
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from carrel_chassis.stack import SERVICES, Stack, StackError, StackSettings
from carrel_chassis.stack.data_folder import DataFolder
from carrel_chassis.stack.ports import free_ports
from carrel_chassis.stack.postgres import EmbeddedPostgres
from carrel_chassis.stack.roles import LOGIN_ROLES, MIGRATOR, SCHEMA_ROLES, SERVICE_ROLES, bootstrap

REFUSED = asyncpg.InsufficientPrivilegeError


def plain(url: str) -> str:
    return url.replace("+asyncpg", "")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(plain(url))
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize("role", SERVICE_ROLES)
async def test_a_service_role_is_powerless(engines: Stack, role: str) -> None:
    async with connected(engines.database_url(role)) as connection:
        row = await connection.fetchrow(
            "SELECT rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles "
            "WHERE rolname = current_user"
        )
        assert not any(row.values())
        assert await connection.fetchval(
            "SELECT count(*) FROM pg_shdepend WHERE refobjid = $1::regrole", role
        ) == 0 or (await owned(connection, role) == 0)
        memberships = "SELECT count(*) FROM pg_auth_members WHERE member = current_user::regrole"
        assert await connection.fetchval(memberships) == 0


async def owned(connection: Any, role: str) -> int:
    count = await connection.fetchval(
        "SELECT count(*) FROM pg_shdepend WHERE deptype = 'o' AND refobjid = $1::regrole", role
    )
    return int(count)


@pytest.mark.parametrize("role", SERVICE_ROLES)
async def test_a_service_role_creates_nothing_and_becomes_nobody(engines: Stack, role: str) -> None:
    async with connected(engines.database_url(role)) as connection:
        for statement in (
            "CREATE TABLE mine (word text)",
            "CREATE TABLE public.mine (word text)",
            "CREATE TEMP TABLE mine (word text)",
            "CREATE SCHEMA mine",
            "CREATE ROLE mine",
            "CREATE DATABASE mine",
            "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "SET ROLE carrel_owner",
            f"ALTER ROLE {role} BYPASSRLS",
        ):
            with pytest.raises((REFUSED, asyncpg.InvalidSchemaNameError)):
                await connection.execute(statement)


async def test_a_service_role_sees_its_own_schema_alone(engines: Stack) -> None:
    for schema, roles in SCHEMA_ROLES.items():
        for role in roles:
            async with connected(engines.database_url(role)) as connection:
                assert await connection.fetchval("SELECT current_schema()::text") == schema
                for other in SCHEMA_ROLES:
                    usage = await connection.fetchval("SELECT has_schema_privilege($1, 'USAGE')", other)
                    assert usage == (other == schema)


async def test_row_level_security_binds_a_service_role(engines: Stack) -> None:
    async with connected(engines.database_url(MIGRATOR)) as owner:
        assert await owner.fetchval("SELECT current_user::text") == "carrel_owner"
        await owner.execute(
            "CREATE TABLE tools.desk (user_id text); ALTER TABLE tools.desk ENABLE ROW LEVEL SECURITY;"
            "ALTER TABLE tools.desk FORCE ROW LEVEL SECURITY; GRANT SELECT, INSERT ON tools.desk TO carrel_tools;"
            "CREATE POLICY own ON tools.desk USING (user_id = (SELECT nullif(current_setting('app.user_id', true), '')));"
        )
        assert await owned(owner, MIGRATOR) == 0
    async with connected(engines.database_url("carrel_tools")) as connection:
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.user_id', 'ada', true)")
            await connection.execute("INSERT INTO desk VALUES ('ada')")
            with pytest.raises(REFUSED):
                async with connection.transaction():
                    await connection.execute("INSERT INTO desk VALUES ('bob')")
            assert await connection.fetchval("SELECT count(*) FROM desk") == 1
        assert await connection.fetchval("SELECT count(*) FROM desk") == 0
        await connection.execute("SET row_security = off")
        with pytest.raises(REFUSED):
            await connection.fetchval("SELECT count(*) FROM desk")


async def test_nobody_gets_in_without_the_right_password(engines: Stack) -> None:
    host, port = engines.addresses["postgres"].split(":")
    for user in (*LOGIN_ROLES, "postgres", "carrel_owner"):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
            await asyncpg.connect(host=host, port=int(port), user=user, password="wrong", database="carrel")


async def test_a_service_role_does_not_get_into_other_databases(engines: Stack) -> None:
    for database in ("postgres", "template1"):
        with pytest.raises(REFUSED):
            await asyncpg.connect(plain(engines.database_url("carrel_tools")), database=database)


async def test_passwords_are_kept_as_scram_alone(engines: Stack) -> None:
    async with connected(engines.admin_url) as admin:
        rows = await admin.fetch("SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin")
    assert len(rows) == len(LOGIN_ROLES) + 1
    assert all(row["rolpassword"].startswith("SCRAM-SHA-256$") for row in rows)


async def test_nats_refuses_strangers_and_carries_large_messages(engines: Stack) -> None:
    async def quiet(_: Exception) -> None: ...

    with pytest.raises(nats.errors.Error):
        await nats.connect(
            f"nats://{engines.addresses['nats']}", max_reconnect_attempts=1, reconnect_time_wait=0.05, error_cb=quiet
        )
    connection = await nats.connect(engines.nats_url)
    assert connection.max_payload == 8 * 1024 * 1024
    await connection.close()


async def test_secrets_are_the_owners_alone(engines: Stack) -> None:
    folder = engines.settings.data_dir
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [
        folder / "secrets.json",
        folder / "stack.json",
        folder / "nats" / "nats.conf",
        *(folder / "keys").iterdir(),
    ]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*files, *folder.iterdir()))
    assert not (folder / "postgres" / "password").exists()


async def test_keys_are_what_the_trust_file_and_the_jwks_say(engines: Stack) -> None:
    keys = engines.settings.data_dir / "keys"
    trust = json.loads((keys / "trust.json").read_text())
    assert set(trust) == {"context", "agent-execution", "tool-dispatch", "event-stream", "gateway", "operator"}
    for name, public in trust.items():
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode((keys / f"{name}.key").read_text()))
        assert private.public_key().public_bytes_raw() == base64.b64decode(public)
    (jwk,) = json.loads((keys / "jwks.json").read_text())["keys"]
    assert (jwk["kty"], jwk["crv"], jwk["alg"], jwk["use"]) == ("OKP", "Ed25519", "EdDSA", "sig")


async def test_each_service_is_told_what_it_needs_and_no_other_secret(engines: Stack) -> None:
    passwords = json.loads((engines.settings.data_dir / "secrets.json").read_text())
    for service in SERVICES:
        environment = engines.service_environment(service.name)
        told = {
            name for name, password in passwords.items() if any(password in value for value in environment.values())
        }
        assert told == {"nats", *service.database_roles.values()}
        assert missing_files(environment) == []


def missing_files(environment: Mapping[str, str]) -> list[str]:
    """Of the files that a service is to read; STUCK_FILE is one that it writes."""
    read = {
        name: value for name, value in environment.items() if name.endswith("_FILE") and name != "CARREL_STUCK_FILE"
    }
    return [name for name, value in read.items() if not Path(value).is_file()]


async def test_an_external_server_is_prepared_by_a_role_that_is_no_superuser(folder: Path) -> None:
    folder_of_server = DataFolder.open(folder / "server")
    foreign = EmbeddedPostgres(folder_of_server, free_ports(1)[0], "secret", fast=True)
    await foreign.start()
    try:
        await check_external(foreign, folder)
    finally:
        await foreign.stop()
        folder_of_server.close()


async def check_external(foreign: EmbeddedPostgres, folder: Path) -> None:
    async with connected(foreign.server.admin_url) as admin:
        await admin.execute("CREATE ROLE dba LOGIN CREATEROLE CREATEDB PASSWORD 'dba'")
    url = foreign.server.admin_url.replace("postgres:secret", "dba:dba")
    for _ in range(2):
        async with Stack(StackSettings(folder / "data", fast=True, only=(), postgres_url=url)) as stack:
            assert set(stack.pids()) == {"nats"}
            assert stack.addresses["postgres"] == foreign.server.address
            for role in LOGIN_ROLES:
                async with connected(stack.database_url(role)) as connection:
                    assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = session_user")
    async with connected(foreign.server.admin_url) as admin:
        await admin.execute("GRANT pg_read_all_data TO carrel_tools")
    with pytest.raises(StackError, match="REVOKE pg_read_all_data FROM carrel_tools"):
        await bootstrap(foreign.server, dict.fromkeys(LOGIN_ROLES, "secret"), ours=False)
