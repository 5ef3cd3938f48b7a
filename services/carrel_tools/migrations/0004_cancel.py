"""Which tool calls their users want to be cancelled."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0004"
down_revision = "0003"

ROLE, KEEPER = "carrel_tools", "carrel_tools_keeper"

SQL = f"""
-- There for as long as whoever asks waits. A call may have no line in the ledger while it runs, so that this is no part of the ledger.
CREATE TABLE tool_cancel (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    cancel_id text NOT NULL,
    tool_call_id text NOT NULL,
    -- By a process that executes the call.
    heard boolean NOT NULL DEFAULT false,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, cancel_id)
);
CREATE INDEX tool_cancel_call ON tool_cancel (tenant_id, user_id, tool_call_id);
{own_rows("tool_cancel", ROLE, "SELECT, INSERT, DELETE")}
{across_users("tool_cancel", KEEPER, "SELECT, UPDATE (heard)")}
"""


def upgrade() -> None:
    execute_script(op, SQL)
