"""People: tenants, five roles, grants beside them, and limits of users and tenants."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows, own_tenant

revision = "0004"
down_revision = "0003"

OWN, ADMIN = "carrel_context", "carrel_context_admin"
_TENANT = "tenant_id = (SELECT nullif(current_setting('app.tenant_id', true), ''))"

_LIMITS = """
    -- 0: nothing is set, the default holds.
    running_runs integer NOT NULL DEFAULT 0 CHECK (running_runs >= 0),
    queued_runs integer NOT NULL DEFAULT 0 CHECK (queued_runs >= 0),
    database_sessions integer NOT NULL DEFAULT 0 CHECK (database_sessions >= 0),
    tool_calls_per_minute integer NOT NULL DEFAULT 0 CHECK (tool_calls_per_minute >= 0),
    open_streams integer NOT NULL DEFAULT 0 CHECK (open_streams >= 0),
    isolated_memory_mb integer NOT NULL DEFAULT 0 CHECK (isolated_memory_mb >= 0)
"""

SQL = f"""
ALTER TABLE app_user DROP CONSTRAINT app_user_role_check;
ALTER TABLE app_user ADD CONSTRAINT app_user_role_check
    CHECK (role IN ('standard', 'power', 'developer', 'admin', 'super_admin'));
ALTER TABLE app_user ADD COLUMN granted_scopes text[] NOT NULL DEFAULT '{{}}';
GRANT INSERT ON api_key TO {ADMIN};

-- A tenant is no user's: bound to it, one sees it; who administers all of them sees all.
CREATE TABLE tenant (
    tenant_id text PRIMARY KEY,
    create_time timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenant TO {OWN} USING ({_TENANT}) WITH CHECK ({_TENANT});
GRANT SELECT, INSERT ON tenant TO {OWN};
{across_users("tenant", ADMIN, "SELECT, INSERT")}

CREATE TABLE tenant_limit (
    tenant_id text PRIMARY KEY,
    {_LIMITS}
);
ALTER TABLE tenant_limit ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_limit FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON tenant_limit TO {OWN} USING ({_TENANT});
GRANT SELECT ON tenant_limit TO {OWN};
{own_tenant("tenant_limit", ADMIN, "SELECT, INSERT, UPDATE")}

CREATE TABLE user_limit (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    {_LIMITS},
    PRIMARY KEY (tenant_id, user_id)
);
{own_rows("user_limit", OWN, "SELECT")}
{own_tenant("user_limit", ADMIN, "SELECT, INSERT, UPDATE")}

-- Those that were here before. Row security is forced on the owner too, who is no tenant's.
ALTER TABLE app_user NO FORCE ROW LEVEL SECURITY;
ALTER TABLE tenant NO FORCE ROW LEVEL SECURITY;
INSERT INTO tenant (tenant_id, create_time) SELECT tenant_id, min(create_time) FROM app_user GROUP BY tenant_id;
ALTER TABLE app_user FORCE ROW LEVEL SECURITY;
ALTER TABLE tenant FORCE ROW LEVEL SECURITY;
"""


def upgrade() -> None:
    execute_script(op, SQL)
