"""Threads: the conversations of a user."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import own_rows

revision = "0005"
down_revision = "0004"

SQL = f"""
CREATE TABLE thread (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    thread_id text NOT NULL,
    title text NOT NULL,
    request_id text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, thread_id),
    UNIQUE (tenant_id, user_id, request_id)
);
CREATE INDEX thread_by_time ON thread (tenant_id, user_id, create_time DESC, thread_id DESC);
{own_rows("thread", "carrel_context", "SELECT, INSERT, UPDATE, DELETE")}
"""


def upgrade() -> None:
    execute_script(op, SQL)
