"""Sessions: the ways in that a user has used."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0006"
down_revision = "0005"

SQL = f"""
CREATE TABLE session (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    session_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('TOKEN', 'API_KEY')),
    create_time timestamptz NOT NULL DEFAULT now(),
    -- Written anew after a quarter of an hour: an issue that finds it fresh commits nothing.
    last_seen_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, session_id)
);
CREATE INDEX session_by_time ON session (tenant_id, user_id, create_time DESC, session_id DESC);
CREATE INDEX session_by_age ON session (last_seen_time);
{own_rows("session", "carrel_context", "SELECT, INSERT, UPDATE")}
-- What is forgotten is forgotten for all users by one role.
{across_users("session", "carrel_context_revocations", "SELECT, DELETE")}
"""


def upgrade() -> None:
    execute_script(op, SQL)
