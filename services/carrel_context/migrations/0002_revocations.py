"""Revocations: what stands against a user's contexts, each with a version that is dense over the whole system."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows, own_tenant

revision = "0002"
down_revision = "0001"

OWN, ADMIN, FOLLOWER = "carrel_context", "carrel_context_admin", "carrel_context_revocations"

SQL = f"""
CREATE TABLE revocation (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    what text NOT NULL CHECK (what IN ('USER', 'SESSION', 'RUN', 'SCOPE')),
    -- The session's or run's id, or the scope; empty for a user.
    value text NOT NULL,
    version bigint NOT NULL UNIQUE,
    -- False once lifted: then only what was issued before change_time is refused.
    revoked boolean NOT NULL,
    reason text NOT NULL,
    change_time timestamptz NOT NULL,
    -- From then on nothing valid is refused by it.
    expire_time timestamptz,
    PRIMARY KEY (tenant_id, user_id, what, value)
);
{own_rows("revocation", OWN, "SELECT")}
{own_tenant("revocation", ADMIN, "SELECT, INSERT, UPDATE")}
-- All services follow what is revoked in all tenants.
{across_users("revocation", FOLLOWER, "SELECT, DELETE")}

-- Nobody's: one row. Whoever takes the next version holds it until the commit, so that versions become visible in their order.
CREATE TABLE revocation_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO revocation_version (version) VALUES (0);
GRANT SELECT, UPDATE ON revocation_version TO {ADMIN};
GRANT SELECT ON revocation_version TO {FOLLOWER};

{own_tenant("app_user", ADMIN, "SELECT, INSERT, UPDATE")}
{own_tenant("api_key", ADMIN, "SELECT, UPDATE")}
"""


def upgrade() -> None:
    execute_script(op, SQL)
