"""Schedules, statistics, and what retention needs: their tables, and roles that see no more than their work takes."""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows, own_tenant

revision = "0008"
down_revision = "0007"

_ROLE, _RUNNER = "carrel_execution", "carrel_execution_runner"
_STATISTICS, _RETENTION = "carrel_execution_statistics", "carrel_execution_retention"

_SCHEDULE = """
CREATE TABLE schedule (
    tenant_id      text        NOT NULL,
    user_id        text        NOT NULL,
    schedule_id    text        NOT NULL,
    request_id     text        NOT NULL,
    request_digest bytea       NOT NULL,
    cron           text        NOT NULL,
    -- An IANA name; '' is UTC.
    time_zone      text        NOT NULL,
    agent          text        NOT NULL,
    input_json     text        NOT NULL,
    thread_id      text        NOT NULL,
    busy_thread    text        NOT NULL,
    priority       integer     NOT NULL,
    -- The signed context of whoever made it, or let it go on: what it starts can do no more.
    grant_bytes    bytea       NOT NULL,
    paused         boolean     NOT NULL DEFAULT false,
    create_time    timestamptz NOT NULL,
    next_time      timestamptz,
    -- Then it is asked whether the grant is still worth something, even if nothing is due.
    check_time     timestamptz NOT NULL,
    -- Until then a process is at work on it.
    hold_until     timestamptz NOT NULL DEFAULT '-infinity',
    last_run_id    text        NOT NULL DEFAULT '',
    last_error     text        NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, user_id, schedule_id),
    UNIQUE (tenant_id, user_id, request_id),
    CONSTRAINT due_unless_paused CHECK (paused = (next_time IS NULL))
);
CREATE INDEX schedule_by_time ON schedule (tenant_id, user_id, create_time DESC, schedule_id DESC);
-- Across users, for the runner.
CREATE INDEX schedule_line ON schedule (least(next_time, check_time)) WHERE NOT paused;
"""

_STATISTIC = """
-- How many runs of a user ended on a day, by how they ended and how long they worked. Nothing decides by it.
CREATE TABLE run_statistic (
    tenant_id       text    NOT NULL,
    user_id         text    NOT NULL,
    day             date    NOT NULL,
    agent           text    NOT NULL,
    state           text    NOT NULL,
    -- The place in the histogram; -1 for a run that never began.
    bucket          integer NOT NULL,
    runs            bigint  NOT NULL,
    seconds         float8  NOT NULL,
    longest_seconds float8  NOT NULL,
    PRIMARY KEY (tenant_id, user_id, day, agent, state, bucket)
) WITH (fillfactor = 70);
-- Across users, for retention.
CREATE INDEX run_statistic_by_day ON run_statistic (day);
"""

_RUN = """
-- Across users: for the sweep of what nobody follows, and for retention.
CREATE INDEX run_followed ON run (follow_until) WHERE follow_until IS NOT NULL AND state IN ('QUEUED', 'RUNNING', 'WAITING');
CREATE INDEX run_ended ON run (finish_time) WHERE finish_time IS NOT NULL;
-- Whether a thread has any run left.
CREATE INDEX run_of_thread ON run (tenant_id, user_id, thread_id) WHERE NOT own_thread;

-- Deletes up to p_count runs that ended before p_before, oldest first, with all that is theirs; returns how many. One process at a time.
-- The state of a thread goes with its last run: until then a new run of the thread finds it. It is as old as the run that left it, so
-- one that has been written anew in this moment is not meant.
CREATE FUNCTION delete_ended_runs(p_before timestamptz, p_count integer) RETURNS integer LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    tenants text[];
    users text[];
    runs text[];
    threads text[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(7410003) THEN
        RETURN 0;
    END IF;
    SELECT array_agg(tenant_id), array_agg(user_id), array_agg(run_id), array_agg(thread_id) INTO tenants, users, runs, threads
        FROM (SELECT * FROM run WHERE finish_time < p_before ORDER BY finish_time LIMIT p_count) AS oldest;
    DELETE FROM journal_step AS t USING unnest(tenants, users, runs) AS gone (tenant_id, user_id, run_id)
        WHERE t.tenant_id = gone.tenant_id AND t.user_id = gone.user_id AND t.run_id = gone.run_id;
    DELETE FROM wait AS t USING unnest(tenants, users, runs) AS gone (tenant_id, user_id, run_id)
        WHERE t.tenant_id = gone.tenant_id AND t.user_id = gone.user_id AND t.run_id = gone.run_id;
    DELETE FROM outbox AS t USING unnest(tenants, users, runs) AS gone (tenant_id, user_id, run_id)
        WHERE t.tenant_id = gone.tenant_id AND t.user_id = gone.user_id AND t.run_id = gone.run_id;
    DELETE FROM run AS t USING unnest(tenants, users, runs) AS gone (tenant_id, user_id, run_id)
        WHERE t.tenant_id = gone.tenant_id AND t.user_id = gone.user_id AND t.run_id = gone.run_id;
    DELETE FROM thread_state AS t USING unnest(tenants, users, threads) AS gone (tenant_id, user_id, thread_id)
        WHERE t.tenant_id = gone.tenant_id AND t.user_id = gone.user_id AND t.thread_id = gone.thread_id AND t.update_time < p_before
            AND NOT EXISTS (SELECT FROM run WHERE run.tenant_id = t.tenant_id AND run.user_id = t.user_id
                AND run.thread_id = t.thread_id AND NOT run.own_thread);
    RETURN coalesce(cardinality(runs), 0);
END $$;
REVOKE ALL ON FUNCTION delete_ended_runs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION delete_ended_runs TO carrel_execution_retention;
"""
_KEPT = ("run", "journal_step", "wait", "outbox", "thread_state", "run_statistic")


def upgrade() -> None:
    execute_script(op, _SCHEDULE + _STATISTIC + _RUN)
    execute_script(
        op,
        own_rows("schedule", _ROLE, "SELECT, INSERT, UPDATE, DELETE")
        + across_users("schedule", _RUNNER, "SELECT, UPDATE (hold_until)")
        + own_rows("run_statistic", _ROLE, "SELECT")
        + across_users("run_statistic", _RUNNER, "SELECT, INSERT, UPDATE")
        + own_tenant("run_statistic", _STATISTICS, "SELECT")
        + "".join(across_users(table, _RETENTION, "SELECT, DELETE") for table in _KEPT),
    )
