"""The ledger of tool calls, and what is known of the users' files."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import own_rows

revision = "0001"
down_revision = None

ROLE = "carrel_tools"

SQL = f"""
CREATE TABLE tool_call (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    tool_call_id text NOT NULL,
    run_id text NOT NULL,
    step_id text NOT NULL,
    -- The attempt of the run, and the process, that may write the outcome.
    attempt integer NOT NULL,
    holder text NOT NULL,
    agent text NOT NULL,
    tool text NOT NULL,
    arguments_sha256 text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('INTENDED', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'DENIED')),
    result_json text,
    error_reason text NOT NULL DEFAULT '',
    error_message text NOT NULL DEFAULT '',
    -- Which rule denied it, of which version of the rules; for auditors, never for the caller.
    rule text NOT NULL DEFAULT '',
    policy_version text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL DEFAULT now(),
    finish_time timestamptz,
    PRIMARY KEY (tenant_id, user_id, tool_call_id)
);
-- A step happens once. A denied call does not use it up: the right may be granted later.
CREATE UNIQUE INDEX tool_call_step ON tool_call (tenant_id, user_id, run_id, step_id) WHERE outcome <> 'DENIED';
CREATE INDEX tool_call_attempt ON tool_call (tenant_id, user_id, run_id, attempt) WHERE outcome <> 'DENIED';
CREATE INDEX tool_call_time ON tool_call (tenant_id, user_id, create_time, tool_call_id);
CREATE INDEX tool_call_run_time ON tool_call (tenant_id, user_id, run_id, create_time, tool_call_id);
{own_rows("tool_call", ROLE, "SELECT, INSERT, UPDATE")}

CREATE TABLE corpus (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    name text NOT NULL,
    -- The name of the file in the user's folder, new for each content.
    corpus_id text NOT NULL,
    media_type text NOT NULL CHECK (media_type IN ('text/csv')),
    size_bytes bigint NOT NULL CHECK (size_bytes > 0),
    sha256 text NOT NULL,
    -- A JSON array: the names of the columns, as SQL knows them.
    column_names text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, name)
);
-- Names in SQL do not differ in case alone.
CREATE UNIQUE INDEX corpus_sql_name ON corpus (tenant_id, user_id, lower(name));
{own_rows("corpus", ROLE, "SELECT, INSERT, UPDATE, DELETE")}
"""


def upgrade() -> None:
    execute_script(op, SQL)
