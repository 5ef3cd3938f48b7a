"""Users, API keys and signing keys."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import own_rows

revision = "0001"
down_revision = None

ROLE = "carrel_context"

SQL = f"""
CREATE TABLE app_user (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    role text NOT NULL CHECK (role IN ('standard', 'admin')),
    disabled boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id)
);
{own_rows("app_user", ROLE, "SELECT, INSERT")}

CREATE TABLE api_key (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    api_key_id text NOT NULL,
    secret_sha256 bytea NOT NULL,
    label text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    revoke_time timestamptz,
    PRIMARY KEY (tenant_id, user_id, api_key_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES app_user
);
{own_rows("api_key", ROLE, "SELECT, INSERT")}

-- Nobody's: the keys that sign contexts. The private halves are encrypted under a key that the database does not hold.
CREATE TABLE signing_key (
    key_id text PRIMARY KEY,
    public_key bytea NOT NULL,
    private_key_encrypted bytea NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT ON signing_key TO {ROLE};
"""


def upgrade() -> None:
    execute_script(op, SQL)
