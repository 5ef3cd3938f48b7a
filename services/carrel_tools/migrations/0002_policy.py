"""Who may use which tool: the rules of a tenant, the record of each decision, consents, and what a user may still begin this minute."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows, own_tenant

revision = "0002"
down_revision = "0001"

ROLE, ADMIN, KEEPER = "carrel_tools", "carrel_tools_admin", "carrel_tools_keeper"

_NO_STEP = "('DENIED', 'REPEATED')"
_AUDITED = """tenant_id, user_id, tool_call_id, run_id, step_id, agent, tool, outcome, error_reason, rule, policy_version, approval_id,
    create_time"""

SQL = f"""
-- A line is a step of a run, or the record of a decision alone: DENIED, or REPEATED (a later attempt was allowed to take a step over).
ALTER TABLE tool_call DROP CONSTRAINT tool_call_outcome_check;
ALTER TABLE tool_call ADD CONSTRAINT tool_call_outcome_check
    CHECK (outcome IN ('INTENDED', 'SUCCEEDED', 'FAILED', 'UNKNOWN', 'DENIED', 'REPEATED'));
-- The consent that the call came with.
ALTER TABLE tool_call ADD COLUMN approval_id text NOT NULL DEFAULT '';
DROP INDEX tool_call_step, tool_call_attempt;
CREATE UNIQUE INDEX tool_call_step ON tool_call (tenant_id, user_id, run_id, step_id) WHERE outcome NOT IN {_NO_STEP};
CREATE INDEX tool_call_attempt ON tool_call (tenant_id, user_id, run_id, attempt) WHERE outcome NOT IN {_NO_STEP};
-- A consent is for one step.
CREATE UNIQUE INDEX tool_call_approval ON tool_call (tenant_id, user_id, approval_id)
    WHERE approval_id <> '' AND outcome NOT IN {_NO_STEP};
-- Lines are written in the order of their age, so that blocks of them need no more than their first and last time.
CREATE INDEX tool_call_age ON tool_call USING brin (create_time);
-- What was decided, on what and by which rule cannot be changed afterwards, nor can the service remove it.
REVOKE UPDATE ON tool_call FROM {ROLE};
GRANT UPDATE (outcome, attempt, holder, result_json, error_reason, error_message, finish_time) ON tool_call TO {ROLE};
{own_tenant("tool_call", ADMIN, f"SELECT ({_AUDITED})")}
{across_users("tool_call", KEEPER, "SELECT (tenant_id, user_id, tool_call_id, outcome, create_time), DELETE")}

-- The rules of a tenant, every version of them; those of the highest version hold. They are no user's.
CREATE TABLE tool_policy (
    tenant_id text NOT NULL,
    version bigint NOT NULL,
    rules_json text NOT NULL,
    changed_by text NOT NULL,
    create_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, version)
);
CREATE INDEX tool_policy_version_of ON tool_policy (version);
ALTER TABLE tool_policy ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_policy FORCE ROW LEVEL SECURITY;
{own_tenant("tool_policy", ADMIN, "SELECT, INSERT")}
{across_users("tool_policy", KEEPER, "SELECT")}

-- Versions are dense over all tenants and appear in their order: whoever changes a policy holds this row.
CREATE TABLE tool_policy_version (version bigint NOT NULL);
INSERT INTO tool_policy_version VALUES (0);
GRANT SELECT, UPDATE ON tool_policy_version TO {ADMIN};
GRANT SELECT ON tool_policy_version TO {KEEPER};

-- What a user has taken of a minute's calls, bytes or CPU time, in all processes together; the user '' stands for the whole tenant.
CREATE TABLE tool_pace (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    limit_name text NOT NULL,
    -- Of the clock: whole minutes since the epoch.
    minute bigint NOT NULL,
    taken bigint NOT NULL,
    PRIMARY KEY (tenant_id, user_id, limit_name)
);
{own_rows("tool_pace", ROLE, "SELECT")}
{across_users("tool_pace", KEEPER, "SELECT, INSERT, UPDATE")}
"""


def upgrade() -> None:
    execute_script(op, SQL)
