"""The journal of runs, and what they wait for.

The order of locks is that of all transitions: the user's slot, then the run; a wait comes after the slot. Writing the journal takes no
slot: it holds the runs that it writes for, in the order of their keys, so that none of them changes hands meanwhile.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0006"
down_revision = "0005"

_ROLE, _RUNNER = "carrel_execution", "carrel_execution_runner"

_TABLES = """
CREATE TABLE journal_step (
    tenant_id     text        NOT NULL,
    user_id       text        NOT NULL,
    run_id        text        NOT NULL,
    -- The step's place in the run; with ~<retry> when it was done again.
    step_id       text        NOT NULL,
    kind          text        NOT NULL CHECK (kind IN ('MODEL', 'AGENT', 'LOCAL')),
    name          text        NOT NULL,
    input_digest  text        NOT NULL,
    state         text        NOT NULL CHECK (state IN ('INTENDED', 'SUCCEEDED', 'FAILED', 'UNKNOWN')),
    result_json   text        NOT NULL,
    error_kind    text        NOT NULL CHECK (error_kind IN ('', 'AGENT', 'RETRYABLE', 'TOOL', 'UNKNOWN', 'DIED')),
    error_reason  text        NOT NULL,
    error_message text        NOT NULL,
    -- The attempt that wrote it, and how often the run had failed before.
    epoch         integer     NOT NULL,
    retry         integer     NOT NULL,
    create_time   timestamptz NOT NULL,
    finish_time   timestamptz,
    PRIMARY KEY (tenant_id, user_id, run_id, step_id)
);

CREATE TABLE wait (
    tenant_id          text        NOT NULL,
    user_id            text        NOT NULL,
    wait_id            text        NOT NULL,
    run_id             text        NOT NULL,
    thread_id          text        NOT NULL,
    step_id            text        NOT NULL,
    kind               text        NOT NULL CHECK (kind IN ('INPUT', 'APPROVAL')),
    state              text        NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'RESOLVED', 'DENIED', 'EXPIRED', 'CANCELLED')),
    agent              text        NOT NULL,
    prompt             text        NOT NULL,
    answer_schema_json text        NOT NULL,
    tool               text        NOT NULL,
    arguments_json     text        NOT NULL,
    arguments_digest   text        NOT NULL,
    -- Tells whether a later attempt asks the same.
    input_digest       text        NOT NULL,
    answer_json        text        NOT NULL DEFAULT '',
    create_time        timestamptz NOT NULL,
    expire_time        timestamptz NOT NULL,
    resolve_time       timestamptz,
    PRIMARY KEY (tenant_id, user_id, wait_id),
    CONSTRAINT over_when_resolved CHECK ((state = 'PENDING') = (resolve_time IS NULL))
);
CREATE INDEX wait_of_run ON wait (tenant_id, user_id, run_id);
CREATE INDEX wait_pending ON wait (tenant_id, user_id, create_time, wait_id) WHERE state = 'PENDING';
-- Across users: only the runner reads by it.
CREATE INDEX wait_expiring ON wait (expire_time) WHERE state = 'PENDING';
"""

_WRITE = """
-- Writes steps of many runs, each for the attempt that holds its run and for no other. It returns, by the place in the arrays, the state
-- of the run and its user's reason to cancel: what is written is that of RUNNING ones; a place that is missing belongs to an old attempt.
CREATE FUNCTION write_steps(
    p_tenant_ids text[], p_user_ids text[], p_run_ids text[], p_epochs integer[], p_step_ids text[], p_kinds text[], p_names text[],
    p_input_digests text[], p_states text[], p_results text[], p_error_kinds text[], p_error_reasons text[],
    p_error_messages text[], p_retries integer[], p_begin_times float8[]
) RETURNS TABLE (place bigint, state text, cancel_reason text) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(p_tenant_ids, p_user_ids, p_run_ids, p_epochs, p_step_ids, p_kinds, p_names, p_input_digests, p_states,
            p_results, p_error_kinds, p_error_reasons, p_error_messages, p_retries, p_begin_times) WITH ORDINALITY
            AS a (tenant_id, user_id, run_id, epoch, step_id, kind, name, input_digest, step_state, result_json, error_kind,
                  error_reason, error_message, retry, begin_time, place)
    ), held AS MATERIALIZED (  -- no later attempt can begin until this is committed
        SELECT run.tenant_id, run.user_id, run.run_id, run.epoch, run.state, run.cancel_reason
        FROM (SELECT DISTINCT tenant_id, user_id, run_id, epoch FROM asked) AS wanted
        JOIN run ON run.tenant_id = wanted.tenant_id AND run.user_id = wanted.user_id AND run.run_id = wanted.run_id
        WHERE run.epoch = wanted.epoch AND run.state IN ('RUNNING', 'CANCELLING')
        ORDER BY run.tenant_id, run.user_id, run.run_id FOR SHARE OF run
    ), written AS (
        INSERT INTO journal_step AS known (tenant_id, user_id, run_id, step_id, kind, name, input_digest, state, result_json,
                                           error_kind, error_reason, error_message, epoch, retry, create_time, finish_time)
        SELECT a.tenant_id, a.user_id, a.run_id, a.step_id, a.kind, a.name, a.input_digest, a.step_state, a.result_json,
               a.error_kind, a.error_reason, a.error_message, a.epoch, a.retry, to_timestamp(a.begin_time),
               CASE WHEN a.step_state <> 'INTENDED' THEN now() END
        FROM asked AS a JOIN held AS h ON h.tenant_id = a.tenant_id AND h.user_id = a.user_id AND h.run_id = a.run_id
            AND h.epoch = a.epoch AND h.state = 'RUNNING'
        ON CONFLICT (tenant_id, user_id, run_id, step_id) DO UPDATE SET
            state = excluded.state, result_json = excluded.result_json, error_kind = excluded.error_kind,
            error_reason = excluded.error_reason, error_message = excluded.error_message,
            epoch = excluded.epoch, finish_time = excluded.finish_time
    )
    SELECT a.place, h.state, h.cancel_reason FROM asked AS a JOIN held AS h
        ON h.tenant_id = a.tenant_id AND h.user_id = a.user_id AND h.run_id = a.run_id AND h.epoch = a.epoch;
END $$;
"""

_PARK = """
-- Lets go of a run that waits for its user, with what it asks for. `parked` is
--   WAITING     no process holds it any more
--   QUEUED      the same, but one of the answers has come meanwhile: it goes on at once
--   CANCELLING  its user has asked it to stop, for this `reason`; nothing was changed
--   STALE       the attempt no longer holds it; nothing was changed
CREATE FUNCTION park_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_epoch integer, p_waits json, p_events bytea[],
    OUT parked text, OUT reason text, OUT "position" bigint
) LANGUAGE plpgsql AS $$
BEGIN
    reason := '';
    IF NOT release_run(p_tenant_id, p_user_id, p_run_id, p_epoch) THEN
        SELECT 'CANCELLING', cancel_reason INTO parked, reason FROM run
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch AND state = 'CANCELLING';
        parked := coalesce(parked, 'STALE');
        reason := coalesce(reason, '');
        RETURN;
    END IF;
    INSERT INTO wait (tenant_id, user_id, run_id, create_time, wait_id, thread_id, step_id, kind, agent, prompt, answer_schema_json,
                      tool, arguments_json, arguments_digest, input_digest, expire_time)
        SELECT p_tenant_id, p_user_id, p_run_id, clock_timestamp(), wait_id, thread_id, step_id, kind, agent, prompt,
               answer_schema_json, tool, arguments_json, arguments_digest, input_digest, to_timestamp(expire_seconds)
        FROM json_to_recordset(p_waits) AS asked (wait_id text, thread_id text, step_id text, kind text, agent text, prompt text,
            answer_schema_json text, tool text, arguments_json text, arguments_digest text, input_digest text, expire_seconds float8)
        ON CONFLICT (tenant_id, user_id, wait_id) DO NOTHING;
    "position" := put_events(p_tenant_id, p_user_id, p_run_id, p_events, interval '0.3 s');
    parked := 'WAITING';
    -- An answer is given under the slot's lock, which is ours since the release: it came before, or finds the run WAITING.
    IF EXISTS (SELECT FROM wait JOIN json_to_recordset(p_waits) AS asked (wait_id text) USING (wait_id)
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND state <> 'PENDING') THEN
        PERFORM requeue_waiting(p_tenant_id, p_user_id, p_run_id);
        parked := 'QUEUED';
    END IF;
END $$;
"""

_ANSWER = """
-- Gives a wait its answer, or lets it expire, if nobody has done so before; true when it did. The caller holds the slot.
CREATE FUNCTION end_wait(
    p_tenant_id text, p_user_id text, p_wait_id text, p_expired boolean, p_state text, p_answer_json text, p_event bytea
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    of_run text;
BEGIN
    UPDATE wait SET state = p_state, answer_json = p_answer_json, resolve_time = clock_timestamp()
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND wait_id = p_wait_id AND state = 'PENDING'
            AND (expire_time <= clock_timestamp()) = p_expired
        RETURNING run_id INTO of_run;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- The attempt that uses the answer tells the same, with the same id, before it goes on.
    PERFORM put_events(p_tenant_id, p_user_id, of_run, ARRAY[p_event], interval '0');
    PERFORM requeue_waiting(p_tenant_id, p_user_id, of_run);
    RETURN true;
END $$;

-- The wait as it is then; no row when the user has no such wait.
CREATE FUNCTION resolve_wait(p_tenant_id text, p_user_id text, p_wait_id text, p_state text, p_answer_json text, p_event bytea)
RETURNS SETOF wait LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    PERFORM end_wait(p_tenant_id, p_user_id, p_wait_id, false, p_state, p_answer_json, p_event);
    RETURN QUERY SELECT * FROM wait WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND wait_id = p_wait_id;
END $$;

-- True when the wait has expired now. A slot that is locked is left for the next time.
CREATE FUNCTION expire_wait(p_tenant_id text, p_user_id text, p_wait_id text, p_event bytea) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE SKIP LOCKED;
    RETURN FOUND AND end_wait(p_tenant_id, p_user_id, p_wait_id, true, 'EXPIRED', '', p_event);
END $$;

-- A run that is over waits for nothing.
CREATE OR REPLACE FUNCTION close_waits(p_tenant_id text, p_user_id text, p_run_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE wait SET state = 'CANCELLED', resolve_time = clock_timestamp()
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND state = 'PENDING';
END $$;
"""


def upgrade() -> None:
    execute_script(op, _TABLES)
    execute_script(op, own_rows("journal_step", _ROLE, "SELECT") + own_rows("wait", _ROLE, "SELECT, UPDATE"))
    execute_script(op, across_users("journal_step", _RUNNER, "SELECT, INSERT, UPDATE"))
    execute_script(op, across_users("wait", _RUNNER, "SELECT, INSERT, UPDATE"))
    execute_script(op, _WRITE + _PARK + _ANSWER)
    execute_script(
        op,
        f"""
        REVOKE ALL ON FUNCTION write_steps, park_run, end_wait, resolve_wait, expire_wait, close_waits FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION resolve_wait TO {_ROLE};
        GRANT EXECUTE ON FUNCTION write_steps, park_run, expire_wait TO {_RUNNER};
        GRANT EXECUTE ON FUNCTION end_wait, close_waits TO {_ROLE}, {_RUNNER};
        """,
    )
