"""What a service's login role must not be able to do; asserted by each service about itself before it serves."""

from __future__ import annotations

from sqlalchemy import text

from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CannotStart

_PRIVILEGES = text("""
    SELECT current_user AS role, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb,
           EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid) AS owns,
           EXISTS (SELECT FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND has_schema_privilege(r.oid, n.oid, 'CREATE')) AS creates
    FROM pg_roles r WHERE r.rolname = current_user
""")


class UnsafeRole(CannotStart):
    """The login role could see or change more than its service may."""


async def assert_unprivileged(url: str) -> None:
    """Raises UnsafeRole unless row-level security binds the role of this address and it owns and creates nothing."""
    # An engine of its own, for this one look at the catalog: those of the service begin nothing without a user.
    engine = cross_user_engine(url, 1)
    try:
        async with database_errors(), engine.connect() as connection:
            row = (await connection.execute(_PRIVILEGES)).one()
    finally:
        await engine.dispose()
    if faults := [name for name, value in row.items() if name != "role" and value]:
        raise UnsafeRole(
            f"The database role {row['role']} is unsafe ({', '.join(faults)}); let the migrations make the roles."
        )
