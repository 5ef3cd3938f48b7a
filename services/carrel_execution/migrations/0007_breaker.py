"""The circuit breaker of (user, agent): how often in a row an agent has died or crashed for one user, and nobody else.

The table counts; how often is too often, and for how long, says who asks.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0007"
down_revision = "0006"

_ROLE, _RUNNER = "carrel_execution", "carrel_execution_runner"

_TABLE = """
CREATE TABLE agent_breaker (
    tenant_id    text        NOT NULL,
    user_id      text        NOT NULL,
    agent        text        NOT NULL,
    -- In a row. An agent that has succeeded has no row.
    failures     integer     NOT NULL,
    failure_time timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, agent)
);
"""

_FUNCTIONS = """
-- Counts how a run ended. What an agent says itself (FAILED with a reason of its own), a cancel and a timeout say nothing of its health.
CREATE OR REPLACE FUNCTION note_ending(p_tenant_id text, p_user_id text, p_agent text, p_state text, p_reason text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_state = 'SUCCEEDED' THEN
        DELETE FROM agent_breaker WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND agent = p_agent;
    ELSIF p_state = 'DEAD' OR p_reason IN ('AGENT_CRASHED', 'AGENT_DIED') THEN
        INSERT INTO agent_breaker AS known (tenant_id, user_id, agent, failures, failure_time)
            VALUES (p_tenant_id, p_user_id, p_agent, 1, clock_timestamp())
            ON CONFLICT (tenant_id, user_id, agent) DO UPDATE SET
                failures = known.failures + 1, failure_time = excluded.failure_time;
    END IF;
END $$;

-- Until when the agent is not started for the user; NULL when it may be. After that time one more failure shuts it again.
CREATE OR REPLACE FUNCTION breaker_open_until(
    p_tenant_id text, p_user_id text, p_agent text, p_failures integer, p_seconds float8
) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT failure_time + make_interval(secs => p_seconds) FROM agent_breaker
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND agent = p_agent AND failures >= p_failures
            AND failure_time > now() - make_interval(secs => p_seconds)
    );
END $$;
"""


def upgrade() -> None:
    execute_script(op, _TABLE)
    execute_script(
        op,
        own_rows("agent_breaker", _ROLE, "SELECT")
        + across_users("agent_breaker", _RUNNER, "SELECT, INSERT, UPDATE, DELETE"),
    )
    execute_script(op, _FUNCTIONS)
