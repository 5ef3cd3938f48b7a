"""Row-level security, read from the catalog and tried with every role: the net under all queries."""

from __future__ import annotations

import asyncpg
import pytest

from tests.support.system import System

SCHEMAS = ("context", "execution", "tools", "events")
CROSS_USER_ROLES = {
    "carrel_execution_runner": {
        "execution.run",
        "execution.user_slot",
        "execution.outbox",
        "execution.tenant_slot",
        "execution.journal_step",
        "execution.wait",
        "execution.thread_state",
        "execution.agent_breaker",
        "execution.schedule",
        "execution.run_statistic",
    },
    "carrel_execution_statistics": {"execution.run_statistic"},
    "carrel_execution_retention": {
        "execution.run",
        "execution.journal_step",
        "execution.wait",
        "execution.outbox",
        "execution.thread_state",
        "execution.run_statistic",
    },
    "carrel_events_writer": {"events.event", "events.user_log", "events.run_attempt"},
    "carrel_events_retention": {"events.event", "events.user_log", "events.run_attempt"},
    "carrel_context_admin": {
        "context.app_user",
        "context.api_key",
        "context.revocation",
        "context.user_limit",
    },
    "carrel_context_revocations": {"context.revocation", "context.session"},
    "carrel_tools_admin": {"tools.tool_call"},
    "carrel_tools_keeper": {"tools.tool_call", "tools.tool_pace", "tools.corpus_upload", "tools.tool_cancel"},
}
"""The roles that work across users, and on which tables alone."""
SERVICE_ROLES = {
    "carrel_context": "context",
    "carrel_execution": "execution",
    "carrel_tools": "tools",
    "carrel_events": "events",
}


async def rows(system: System, role: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(system.database_url(role, driver="postgresql"))
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()


async def user_tables(system: System) -> list[str]:
    """Every table of ours with a user id."""
    found = await rows(
        system,
        "postgres",
        """SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = ANY($1) AND c.relkind IN ('r', 'p')
             AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_id')
           ORDER BY 1""",
        list(SCHEMAS),
    )
    return [row["name"] for row in found]


async def test_every_table_with_a_user_is_under_forced_row_security(system: System) -> None:
    tables = await user_tables(system)
    assert len(tables) >= 8
    for table in tables:
        [row] = await rows(
            system,
            "postgres",
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = $1::regclass",
            table,
        )
        assert tuple(row) == (True, True), table


async def test_every_table_without_a_user_is_named_here(system: System) -> None:
    """A new table without a user id must be nobody's on purpose."""
    found = await rows(
        system,
        "postgres",
        "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname = ANY($1)",
        list(SCHEMAS),
    )
    versions = {f"{schema}.alembic_version" for schema in SCHEMAS}
    assert {row["name"] for row in found} - set(await user_tables(system)) - versions == {
        "context.signing_key",
        "events.segment",
        "context.revocation_version",
        "context.tenant",
        "context.tenant_limit",
        "tools.tool_policy",  # of a tenant; its administrators see their own tenant's alone
        "tools.tool_policy_version",
        "execution.tenant_slot",  # of the users of a tenant together; a policy keeps each to the own tenant
    }


async def test_every_service_role_is_bound_to_the_user_and_to_the_tenant(system: System) -> None:
    for table in await user_tables(system):
        policies = await rows(
            system,
            "postgres",
            """SELECT policyname, permissive, roles::text[] AS roles, qual, with_check
               FROM pg_policies WHERE schemaname || '.' || tablename = $1""",
            table,
        )
        schema = table.partition(".")[0]
        service = next(role for role, owned in SERVICE_ROLES.items() if owned == schema)
        own = {row["permissive"]: row for row in policies if service in row["roles"]}
        assert own.keys() == {"PERMISSIVE", "RESTRICTIVE"}, f"{table}: {policies}"
        for kind, column in (("PERMISSIVE", "user_id"), ("RESTRICTIVE", "tenant_id")):
            for condition in (own[kind]["qual"], own[kind]["with_check"]):
                assert column in condition and f"app.{column}" in condition and "SELECT" in condition, (
                    table,
                    condition,
                )
        for row in policies:
            for role in set(row["roles"]) - {service}:
                assert table in CROSS_USER_ROLES.get(role, set()), f"{role} sees all of {table}"


async def test_tenant_and_user_come_first_in_every_primary_key(system: System) -> None:
    for table in await user_tables(system):
        [row] = await rows(
            system,
            "postgres",
            """SELECT array_agg(a.attname::text ORDER BY k.place) AS columns
               FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place), pg_attribute a
               WHERE i.indrelid = $1::regclass AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.number""",
            table,
        )
        assert row["columns"][:2] == ["tenant_id", "user_id"], (table, row["columns"])


@pytest.mark.parametrize("role", [*SERVICE_ROLES, *CROSS_USER_ROLES])
async def test_no_role_can_step_over_row_security(system: System, role: str) -> None:
    [row] = await rows(
        system,
        "postgres",
        """SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,
                  EXISTS (SELECT FROM pg_class WHERE relowner = r.oid) AS owns,
                  EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid) AS is_member,
                  EXISTS (SELECT FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND has_schema_privilege(r.oid, n.oid, 'CREATE')) AS creates,
                  EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                          WHERE n.nspname = ANY($2) AND c.relkind = 'r' AND has_table_privilege(r.oid, c.oid, 'TRUNCATE')) AS truncates
           FROM pg_roles r WHERE rolname = $1""",
        role,
        list(SCHEMAS),
    )
    assert not any(row), dict(row)


@pytest.mark.parametrize("role", [*SERVICE_ROLES, *CROSS_USER_ROLES])
async def test_no_role_reaches_into_another_services_schema(system: System, role: str) -> None:
    own = SERVICE_ROLES.get(role) or role.split("_")[1]
    for schema in set(SCHEMAS) - {own}:
        [row] = await rows(system, "postgres", "SELECT has_schema_privilege($1, $2, 'USAGE')", role, schema)
        assert not row[0], (role, schema)


@pytest.mark.parametrize("role", list(SERVICE_ROLES))
async def test_without_a_user_no_row_is_seen(system: System, role: str) -> None:
    for table in await user_tables(system):
        if table.startswith(SERVICE_ROLES[role] + "."):
            assert await rows(system, role, f"SELECT * FROM {table}") == []
