"""The SQL that puts a table under row-level security; migrations call it, so that every table gets the same policies."""

from __future__ import annotations


def _current(setting: str) -> str:
    # In a sub-select the setting is read once a statement, and a cached plan is the same for every user;
    # nullif because the setting is an empty string, not NULL, on a connection that has used it before.
    return f"(SELECT nullif(current_setting('app.{setting}', true), ''))"


def own_rows(table: str, role: str, privileges: str) -> str:
    """Lets `role` use the rows of the current user only: a policy on the user, and a restrictive one on the tenant that no later
    permissive policy can widen. `privileges` is what the role may do, for example "SELECT, INSERT"."""
    user, tenant = f"user_id = {_current('user_id')}", f"tenant_id = {_current('tenant_id')}"
    return f"""
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
    CREATE POLICY own_user ON {table} TO {role} USING ({user}) WITH CHECK ({user});
    CREATE POLICY own_tenant ON {table} AS RESTRICTIVE TO {role} USING ({tenant}) WITH CHECK ({tenant});
    GRANT {privileges} ON {table} TO {role};
    """


def across_users(table: str, role: str, privileges: str) -> str:
    """Lets `role`, which works across users (claims, retention), use all rows of this one table."""
    return f"""
    CREATE POLICY across_users_{role} ON {table} TO {role} USING (true) WITH CHECK (true);
    GRANT {privileges} ON {table} TO {role};
    """


def own_tenant(table: str, role: str, privileges: str) -> str:
    """Lets `role`, which works for a whole tenant (its administration), use the rows of the current tenant only."""
    tenant = f"tenant_id = {_current('tenant_id')}"
    return f"""
    CREATE POLICY whole_tenant_{role} ON {table} TO {role} USING ({tenant}) WITH CHECK ({tenant});
    GRANT {privileges} ON {table} TO {role};
    """
