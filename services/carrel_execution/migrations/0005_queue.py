"""The queue in full: threads, priorities, delays, deadlines, retries, waiting, weights, and starts that need no queue.

A run is `ready` when it could be claimed now: nothing of its thread is before it, and nothing holds it back in time. Only ready runs are
in the line that claims read, so that a thread with a thousand runs behind a busy one costs them nothing.

Locks: the user's slot first, then runs, then tenants' slots, as before. Whoever changes whether a run is ready, or ends one, holds the
slot; renewals and steps of the journal, which lock runs alone, lock them in the order of their keys.

An event that is empty in the outbox stands for the end of its run: the relay makes it of the row. So a run that ends by a statement
ends with its event in the same commit, and no process is needed between the two.

The functions of the same names with fewer parameters go: processes of the version before must be stopped first.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0005"
down_revision = "0004"

_ROLE, _RUNNER = "carrel_execution", "carrel_execution_runner"

_TABLES = f"""
ALTER TABLE run
    -- No thread was named: nobody else has been started in its own one yet, and nothing need be looked up there.
    ADD COLUMN own_thread          boolean     NOT NULL DEFAULT false,
    ADD COLUMN ready               boolean     NOT NULL DEFAULT false,
    -- Not ready before: the earliest start that was asked for, or the end of a back-off. NULL as soon as that is over.
    ADD COLUMN due_time            timestamptz,
    ADD COLUMN priority            integer     NOT NULL DEFAULT 0,
    ADD COLUMN earliest_start_time timestamptz,
    ADD COLUMN deadline            timestamptz,
    -- Of work; NULL for what the service allows.
    ADD COLUMN timeout_seconds     float8,
    ADD COLUMN busy_thread         text        NOT NULL DEFAULT 'ENQUEUE',
    ADD COLUMN on_disconnect       text        NOT NULL DEFAULT 'CONTINUE',
    ADD COLUMN follow_until        timestamptz,
    ADD COLUMN retries             integer     NOT NULL DEFAULT 0,
    -- What the agent's class said when the run first began.
    ADD COLUMN agent_version       text        NOT NULL DEFAULT '',
    ADD COLUMN repeats_run_id      text,
    ADD COLUMN schedule_id         text,
    -- Time since the first start that is no work: waiting for people, and back-off.
    ADD COLUMN waited_seconds      float8      NOT NULL DEFAULT 0,
    -- Since when it is WAITING.
    ADD COLUMN wait_time           timestamptz,
    -- What it leaves as the state of its thread is not wanted.
    ADD COLUMN rollback            boolean     NOT NULL DEFAULT false,
    -- JSON: what the parts of a cancelled run came to.
    ADD COLUMN cancel_report       text,
    -- The last place in the outbox that was given out: places only rise, so that deleting up to one never meets a later event.
    ADD COLUMN outbox_position     bigint      NOT NULL DEFAULT 0;
UPDATE run SET ready = true WHERE state = 'QUEUED';
-- Every check is made ready anew for each statement that writes a run, 5 us each: only those that hold the states together are here.
ALTER TABLE run
    ADD CONSTRAINT ready_or_due_only_while_queued CHECK (CASE state WHEN 'QUEUED' THEN NOT ready OR due_time IS NULL
        ELSE NOT ready AND due_time IS NULL END),
    ADD CONSTRAINT waits_since_a_time CHECK ((state = 'WAITING') = (wait_time IS NOT NULL));
-- Until a table has statistics all its indexes that begin with the owner look alike, and the planner took run_by_time for everything:
-- each lookup read all runs of the user. These conditions are always true; only the statements that an index is meant for state them.
DROP INDEX run_by_time;
CREATE INDEX run_by_time ON run (tenant_id, user_id, create_time DESC, run_id DESC) WHERE run_id <> '';
ALTER TABLE run DROP CONSTRAINT run_tenant_id_user_id_request_id_key;
CREATE UNIQUE INDEX run_by_request ON run (tenant_id, user_id, request_id) WHERE request_id <> '';
DROP INDEX run_queue;
CREATE INDEX run_line ON run (tenant_id, user_id, priority DESC, create_time, run_id) WHERE ready;
CREATE INDEX run_thread ON run (tenant_id, user_id, thread_id, create_time, run_id)
    WHERE NOT own_thread AND state IN ('QUEUED', 'RUNNING', 'WAITING', 'CANCELLING');
-- Across users, as those of the lines: only the runner reads by them.
CREATE INDEX run_due ON run (due_time, tenant_id, user_id) WHERE due_time IS NOT NULL;
CREATE INDEX run_deadline ON run (deadline, tenant_id, user_id) WHERE deadline IS NOT NULL AND state IN ('QUEUED', 'WAITING');

ALTER TABLE user_slot
    -- Of the queued runs those that could be claimed now.
    ADD COLUMN ready  integer NOT NULL DEFAULT 0,
    -- How many turns the user takes before going to the end of the line, and how many of them are taken.
    ADD COLUMN weight integer NOT NULL DEFAULT 1,
    ADD COLUMN turns  integer NOT NULL DEFAULT 0;
UPDATE user_slot SET ready = queued;
ALTER TABLE user_slot DROP CONSTRAINT user_slot_queued_check, ADD CONSTRAINT ready_are_queued CHECK (ready BETWEEN 0 AND queued);
DROP INDEX user_slot_line;
DROP INDEX user_slot_line_of_tenant;
CREATE INDEX user_slot_line ON user_slot (head_time) WHERE ready > 0 AND NOT counted;
CREATE INDEX user_slot_line_of_tenant ON user_slot (tenant_id, head_time) WHERE ready > 0 AND counted;

ALTER TABLE tenant_slot
    -- 0: its users stand in the line each for themselves. Otherwise the tenant stands there as one, and takes so many turns at a time.
    ADD COLUMN weight    integer     NOT NULL DEFAULT 0 CHECK (weight >= 0),
    ADD COLUMN turns     integer     NOT NULL DEFAULT 0,
    ADD COLUMN turn_time timestamptz NOT NULL DEFAULT '-infinity';

-- What the runs of a thread leave for those after them.
CREATE TABLE thread_state (
    tenant_id   text        NOT NULL,
    user_id     text        NOT NULL,
    thread_id   text        NOT NULL,
    state_json  text        NOT NULL,
    version     bigint      NOT NULL DEFAULT 1,
    -- The run that left it.
    run_id      text        NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, thread_id)
);
{own_rows("thread_state", _ROLE, "SELECT")}
{across_users("thread_state", _RUNNER, "SELECT, INSERT, UPDATE")}
"""

_STEPS = """
-- Changes the counters of a slot that the caller has locked. Who begins to wait goes to the end of the line.
CREATE FUNCTION count_in_slot(p_tenant_id text, p_user_id text, p_running integer, p_queued integer, p_ready integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE user_slot SET running = running + p_running, queued = queued + p_queued, ready = ready + p_ready,
            head_time = CASE WHEN ready = 0 AND p_ready > 0 THEN now() ELSE head_time END,
            turns = CASE WHEN ready = 0 AND p_ready > 0 THEN 0 ELSE turns END
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
END $$;

-- The run of a thread whose turn it is: the oldest that is not over. NULL when all are.
CREATE FUNCTION head_of_thread(p_tenant_id text, p_user_id text, p_thread_id text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT run_id FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND thread_id = p_thread_id
            AND NOT own_thread AND state IN ('QUEUED', 'RUNNING', 'WAITING', 'CANCELLING')
        ORDER BY create_time, run_id LIMIT 1);
END $$;

-- Makes the next run of a thread ready, unless it is held back in time.
CREATE FUNCTION advance_thread(p_tenant_id text, p_user_id text, p_thread_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE run SET ready = true
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = head_of_thread(p_tenant_id, p_user_id, p_thread_id)
            AND state = 'QUEUED' AND NOT ready AND due_time IS NULL;
    IF FOUND THEN
        PERFORM count_in_slot(p_tenant_id, p_user_id, 0, 0, 1);
    END IF;
END $$;

-- What a run waits for is over with it. The waits come with 0006.
CREATE FUNCTION close_waits(p_tenant_id text, p_user_id text, p_run_id text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$;

-- Tells the circuit breaker of (user, agent) how a run ended, and asks it until when nothing is started. It comes with 0007.
CREATE FUNCTION note_ending(p_tenant_id text, p_user_id text, p_agent text, p_state text, p_reason text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
END $$;
CREATE FUNCTION breaker_open_until(p_tenant_id text, p_user_id text, p_agent text, p_failures integer, p_seconds float8)
RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
    RETURN NULL;
END $$;

-- Puts events of a run, in their order, behind all that it has told before; returns the place of the last. The caller holds the slot.
CREATE FUNCTION put_events(p_tenant_id text, p_user_id text, p_run_id text, p_events bytea[], p_hold interval)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
BEGIN
    UPDATE run SET outbox_position = outbox_position + cardinality(p_events)
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id
        RETURNING outbox_position INTO last;
    INSERT INTO outbox (tenant_id, user_id, run_id, position, event, create_time, due_time)
        SELECT p_tenant_id, p_user_id, p_run_id, last - cardinality(p_events) + sent.place, sent.event, now(), now() + p_hold
        FROM unnest(p_events) WITH ORDINALITY AS sent (event, place);
    RETURN last;
END $$;

-- Ends a run that no worker holds; false when it is not QUEUED or WAITING. The caller holds the slot, and goes on with the thread.
CREATE FUNCTION end_unheld(
    p_tenant_id text, p_user_id text, p_run_id text, p_state text, p_reason text, p_message text, p_rollback boolean DEFAULT false
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    was record;
BEGIN
    SELECT state, ready INTO was FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND state IN ('QUEUED', 'WAITING') FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE run SET state = p_state, ready = false, due_time = NULL, wait_time = NULL, finish_time = clock_timestamp(),
            error_reason = p_reason, error_message = p_message, rollback = p_rollback,
            cancel_requested = p_state = 'CANCELLED', cancel_reason = CASE WHEN p_state = 'CANCELLED' THEN p_message ELSE '' END,
            waited_seconds = waited_seconds + coalesce(extract(epoch FROM clock_timestamp() - wait_time), 0)
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id;
    IF was.state = 'QUEUED' THEN
        PERFORM count_in_slot(p_tenant_id, p_user_id, 0, -1, -was.ready::integer);
    END IF;
    PERFORM put_events(p_tenant_id, p_user_id, p_run_id, ARRAY[''::bytea], interval '0');
    PERFORM close_waits(p_tenant_id, p_user_id, p_run_id);
    RETURN true;
END $$;
"""

_ACCEPT = """
-- Makes way in a thread: what is not held is CANCELLED, what is held is CANCELLING; returns the latter. The caller holds the slot.
CREATE FUNCTION interrupt_thread(p_tenant_id text, p_user_id text, p_thread_id text, p_by text, p_rollback boolean)
RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    before record;
    told text[] := '{}';
    why text := 'interrupted by run ' || p_by;
BEGIN
    FOR before IN SELECT run_id FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND thread_id = p_thread_id
            AND NOT own_thread AND state IN ('QUEUED', 'RUNNING', 'WAITING', 'CANCELLING')
        ORDER BY create_time, run_id
    LOOP
        IF NOT end_unheld(p_tenant_id, p_user_id, before.run_id, 'CANCELLED', 'CANCELLED', why, p_rollback) THEN
            UPDATE run SET state = 'CANCELLING', cancel_requested = true, rollback = rollback OR p_rollback,
                    cancel_reason = CASE WHEN state = 'CANCELLING' THEN cancel_reason ELSE why END
                WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = before.run_id
                    AND state IN ('RUNNING', 'CANCELLING');
            told := told || before.run_id;
        END IF;
    END LOOP;
    RETURN told;
END $$;

-- `accepted` is the run, or the one that this request_id had started before. When it is NULL, `refusal` says why:
--   queued_runs, tenant_queued_runs  the queue is full; `most` may wait
--   thread_busy                      `blocker` is not over
--   breaker_open                     until `retry_time`
--   deadline_over                    there is no time left
-- `direct` tells the caller that the run is already RUNNING under p_worker, as attempt 1: it had room, and nobody had to wait for that.
-- p_worker is NULL for a caller without room. `interrupted` are the runs that have been asked to stop.
CREATE FUNCTION accept_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_thread_id text, p_agent text, p_request_id text,
    p_request_digest bytea, p_input_json text, p_grant bytea, p_event bytea,
    p_own_thread boolean, p_busy_thread text, p_priority integer, p_earliest_start_time timestamptz, p_deadline timestamptz,
    p_timeout_seconds float8, p_on_disconnect text, p_follow_seconds float8, p_repeats_run_id text, p_schedule_id text,
    p_queued_limit integer, p_running_limit integer, p_weight integer,
    p_tenant_queued_limit integer, p_tenant_running_limit integer, p_tenant_weight integer, p_limit_time timestamptz,
    p_breaker_failures integer, p_breaker_seconds float8,
    p_worker text, p_lease_seconds float8, p_default_running_limit integer, p_agent_version text,
    OUT accepted run, OUT refusal text, OUT most integer, OUT blocker text, OUT retry_time timestamptz,
    OUT direct boolean, OUT interrupted text[]
) LANGUAGE plpgsql AS $$
DECLARE
    slot user_slot;
    others integer;
    limited boolean := p_tenant_queued_limit > 0 OR p_tenant_running_limit > 0 OR p_tenant_weight > 0
        OR EXISTS (SELECT FROM tenant_slot WHERE tenant_id = p_tenant_id);
    due timestamptz := CASE WHEN p_earliest_start_time > now() THEN p_earliest_start_time END;
    is_ready boolean;
BEGIN
    direct := false;
    interrupted := '{}';
    SELECT * INTO slot FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO user_slot (tenant_id, user_id, running_limit, weight, head_time)
            VALUES (p_tenant_id, p_user_id, p_running_limit, p_weight, now()) ON CONFLICT (tenant_id, user_id) DO NOTHING;
        SELECT * INTO slot FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    END IF;
    -- From here to the commit nobody else accepts for this user: the same request at once is seen here.
    SELECT * INTO accepted FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND request_id = p_request_id AND request_id <> '';
    IF FOUND THEN
        RETURN;
    END IF;

    IF p_deadline <= now() THEN
        refusal := 'deadline_over';
        RETURN;
    END IF;
    retry_time := breaker_open_until(p_tenant_id, p_user_id, p_agent, p_breaker_failures, p_breaker_seconds);
    IF retry_time IS NOT NULL THEN
        refusal := 'breaker_open';
        RETURN;
    END IF;
    IF slot.queued >= p_queued_limit THEN
        refusal := 'queued_runs';
        most := p_queued_limit;
        RETURN;
    END IF;
    IF NOT p_own_thread THEN
        -- The run whose own thread this was shares it from now on. Such a thread is named after its run.
        UPDATE run SET own_thread = false
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = regexp_replace(p_thread_id, '^thread-', 'run-')
                AND own_thread AND thread_id = p_thread_id;
        blocker := head_of_thread(p_tenant_id, p_user_id, p_thread_id);
        IF blocker IS NOT NULL AND p_busy_thread = 'REJECT' THEN
            refusal := 'thread_busy';
            RETURN;
        END IF;
        IF blocker IS NOT NULL AND limited AND p_busy_thread IN ('INTERRUPT', 'ROLLBACK') THEN
            -- Runs are locked before the tenant is, and cancelled only when that has a place.
            PERFORM FROM run
                WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND thread_id = p_thread_id
                    AND NOT own_thread AND state IN ('QUEUED', 'RUNNING', 'WAITING', 'CANCELLING')
                ORDER BY run_id FOR UPDATE;
        END IF;
    END IF;
    IF limited THEN
        -- From here to the commit no other run of the tenant is accepted: `others` wait, this one not among them.
        INSERT INTO tenant_slot AS tenant (tenant_id, queued_limit, running_limit, weight, limit_time)
            VALUES (p_tenant_id, p_tenant_queued_limit, p_tenant_running_limit, p_tenant_weight, p_limit_time)
            ON CONFLICT (tenant_id) DO UPDATE SET
                queued_limit = CASE WHEN p_limit_time < tenant.limit_time THEN tenant.queued_limit ELSE p_tenant_queued_limit END,
                running_limit = CASE WHEN p_limit_time < tenant.limit_time THEN tenant.running_limit ELSE p_tenant_running_limit END,
                weight = CASE WHEN p_limit_time < tenant.limit_time THEN tenant.weight ELSE p_tenant_weight END,
                limit_time = greatest(tenant.limit_time, p_limit_time)
            RETURNING tenant.queued + CASE WHEN slot.counted THEN 0 ELSE slot.queued END, tenant.queued_limit,
                tenant.queued_limit > 0 OR tenant.running_limit > 0 OR tenant.weight > 0
            INTO others, most, limited;
        IF limited <> slot.counted THEN
            UPDATE user_slot SET counted = limited WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
        END IF;
        IF most > 0 AND others >= most THEN
            refusal := 'tenant_queued_runs';
            RETURN;
        END IF;
    END IF;
    IF blocker IS NOT NULL AND p_busy_thread IN ('INTERRUPT', 'ROLLBACK') THEN
        interrupted := interrupt_thread(p_tenant_id, p_user_id, p_thread_id, p_run_id, p_busy_thread = 'ROLLBACK');
        blocker := head_of_thread(p_tenant_id, p_user_id, p_thread_id);
    END IF;

    is_ready := blocker IS NULL AND due IS NULL;
    direct := is_ready AND p_worker IS NOT NULL AND slot.ready = 0 AND NOT limited AND NOT slot.counted
        AND slot.running < CASE WHEN p_running_limit > 0 THEN p_running_limit ELSE p_default_running_limit END;
    -- The clock is read under the slot's lock: create_time is the order in which the user's runs were accepted.
    INSERT INTO run (tenant_id, user_id, run_id, thread_id, agent, request_id, request_digest, input_json, grant_bytes, create_time,
            own_thread, busy_thread, priority, earliest_start_time, due_time, deadline, timeout_seconds, on_disconnect, follow_until,
            repeats_run_id, schedule_id, ready, state, epoch, worker, start_time, lease_until, agent_version)
        VALUES (p_tenant_id, p_user_id, p_run_id, p_thread_id, p_agent, p_request_id, p_request_digest, p_input_json, p_grant,
            clock_timestamp(), p_own_thread, p_busy_thread, p_priority, p_earliest_start_time, due, p_deadline, p_timeout_seconds,
            p_on_disconnect, now() + make_interval(secs => p_follow_seconds), p_repeats_run_id, p_schedule_id,
            is_ready AND NOT direct, CASE WHEN direct THEN 'RUNNING' ELSE 'QUEUED' END, direct::integer,
            CASE WHEN direct THEN p_worker END, CASE WHEN direct THEN clock_timestamp() END,
            CASE WHEN direct THEN clock_timestamp() + make_interval(secs => p_lease_seconds) END,
            CASE WHEN direct THEN p_agent_version ELSE '' END)
        RETURNING * INTO accepted;
    UPDATE user_slot SET running_limit = p_running_limit, weight = p_weight,
            running = running + direct::integer,
            queued = queued + (NOT direct)::integer,
            ready = ready + (is_ready AND NOT direct)::integer,
            head_time = CASE WHEN ready = 0 AND is_ready AND NOT direct THEN now() ELSE head_time END,
            turns = CASE WHEN ready = 0 THEN 0 ELSE turns END
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
    INSERT INTO outbox (tenant_id, user_id, run_id, position, event, create_time, due_time)
        VALUES (p_tenant_id, p_user_id, p_run_id, 0, p_event, now(), now() + interval '0.3 s');
END $$;
"""

_CANCEL = """
-- The run as it is after the request to stop, and the state that it was in; both NULL when the user has no such run.
CREATE FUNCTION cancel_run(p_tenant_id text, p_user_id text, p_run_id text, p_reason text, OUT cancelled run, OUT earlier text)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    SELECT state INTO earlier FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id FOR UPDATE;
    IF end_unheld(p_tenant_id, p_user_id, p_run_id, 'CANCELLED', 'CANCELLED', p_reason) THEN
        PERFORM advance_thread(p_tenant_id, p_user_id, thread_id) FROM run
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND NOT own_thread;
    ELSIF earlier = 'RUNNING' THEN
        UPDATE run SET state = 'CANCELLING', cancel_requested = true, cancel_reason = p_reason
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id;
    END IF;
    SELECT * INTO cancelled FROM run WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id;
END $$;
"""

_HELD = """
-- Ends a run, for the attempt that holds it and for no other. `ended` is
--   FINISHED    done; the events are in the outbox, the last of them at `position`. `overtakes`: others that were put there after the
--               claim are before them, so that telling these at once would be too early
--   CANCELLING  its user has asked it to stop for `reason`: only CANCELLED may end it
--   STALE       the attempt no longer holds the run; nothing was changed
-- `waiting` says whether the user has runs that could be claimed now; `worked_seconds` how long the run was at work.
-- With p_only_expired it ends a run whose worker is lost, unless the worker has come back.
CREATE FUNCTION finish_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_epoch integer, p_only_expired boolean, p_state text,
    p_result_json text, p_error_reason text, p_error_message text, p_events bytea[], p_thread_state text, p_cancel_report text,
    p_unsent_position bigint,
    OUT ended text, OUT reason text, OUT waiting boolean, OUT "position" bigint, OUT worked_seconds float8, OUT overtakes boolean
) LANGUAGE plpgsql AS $$
DECLARE
    done run;
    line integer;
BEGIN
    SELECT ready INTO line FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    waiting := coalesce(line > 0, false);
    overtakes := false;
    UPDATE run SET state = p_state, result_json = p_result_json, error_reason = p_error_reason, error_message = p_error_message,
            cancel_report = p_cancel_report, worker = NULL, lease_until = NULL, finish_time = clock_timestamp(),
            outbox_position = outbox_position + cardinality(p_events)
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch
            AND (state = 'RUNNING' OR state = 'CANCELLING' AND p_state = 'CANCELLED')
            AND (NOT p_only_expired OR lease_until < now())
        RETURNING * INTO done;
    IF NOT FOUND THEN
        SELECT 'CANCELLING', cancel_reason INTO ended, reason FROM run
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch
                AND state = 'CANCELLING' AND NOT p_only_expired;
        ended := coalesce(ended, 'STALE');
        reason := coalesce(reason, '');
        RETURN;
    END IF;
    ended := 'FINISHED';
    reason := done.cancel_reason;
    "position" := done.outbox_position;
    worked_seconds := greatest(0, extract(epoch FROM done.finish_time - done.start_time) - done.waited_seconds);
    UPDATE user_slot SET running = running - 1 WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
    INSERT INTO outbox (tenant_id, user_id, run_id, position, event, create_time, due_time)
        SELECT p_tenant_id, p_user_id, p_run_id, done.outbox_position - cardinality(p_events) + sent.place, sent.event,
               now(), now() + interval '0.3 s'
        FROM unnest(p_events) WITH ORDINALITY AS sent (event, place);
    IF p_thread_state IS NOT NULL AND NOT done.rollback THEN
        INSERT INTO thread_state AS kept (tenant_id, user_id, thread_id, state_json, run_id, update_time)
            VALUES (p_tenant_id, p_user_id, done.thread_id, p_thread_state, p_run_id, now())
            ON CONFLICT (tenant_id, user_id, thread_id) DO UPDATE SET
                state_json = excluded.state_json, run_id = excluded.run_id, update_time = excluded.update_time,
                version = kept.version + 1;
    END IF;
    PERFORM note_ending(p_tenant_id, p_user_id, done.agent, p_state, p_error_reason);
    IF done.waited_seconds > 0 THEN
        PERFORM close_waits(p_tenant_id, p_user_id, p_run_id);
        overtakes := EXISTS (SELECT FROM outbox
            WHERE outbox.tenant_id = p_tenant_id AND outbox.user_id = p_user_id AND outbox.run_id = p_run_id
                AND outbox.position > p_unsent_position AND outbox.position <= done.outbox_position - cardinality(p_events));
    END IF;
    IF NOT done.own_thread THEN
        PERFORM advance_thread(p_tenant_id, p_user_id, done.thread_id);
        SELECT ready > 0 INTO waiting FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
    END IF;
END $$;

-- Puts one run back into its user's queue, at its old place, if this attempt still holds it; true when it did.
-- Of a lost worker's runs, those whose slot is locked are left for the next time.
CREATE OR REPLACE FUNCTION requeue_run(p_tenant_id text, p_user_id text, p_run_id text, p_epoch integer, p_lost boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF p_lost THEN
        PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    ELSE
        PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    END IF;
    UPDATE run SET state = 'QUEUED', ready = true, worker = NULL, lease_until = NULL, lost_leases = lost_leases + p_lost::integer
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch AND state = 'RUNNING'
            AND (NOT p_lost OR lease_until < now());
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM count_in_slot(p_tenant_id, p_user_id, -1, 1, 1);
    RETURN true;
END $$;

-- Lets a run that has failed be tried again after a delay, at its old place: nothing of its thread overtakes it. `ended` is RETRIED, or
-- CANCELLING (with its user's reason) or STALE as from finish_run; p_events are what it has still to tell, the last at `position`.
CREATE FUNCTION retry_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_epoch integer, p_delay_seconds float8, p_events bytea[],
    OUT ended text, OUT reason text, OUT "position" bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    SELECT CASE state WHEN 'RUNNING' THEN 'RETRIED' ELSE 'CANCELLING' END, cancel_reason INTO ended, reason FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch
            AND state IN ('RUNNING', 'CANCELLING') FOR UPDATE;
    ended := coalesce(ended, 'STALE');
    reason := coalesce(reason, '');
    IF ended <> 'RETRIED' THEN
        RETURN;
    END IF;
    UPDATE run SET state = 'QUEUED', worker = NULL, lease_until = NULL, retries = retries + 1, ready = p_delay_seconds <= 0,
            due_time = CASE WHEN p_delay_seconds > 0 THEN clock_timestamp() + make_interval(secs => p_delay_seconds) END,
            waited_seconds = waited_seconds + greatest(p_delay_seconds, 0)
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id;
    PERFORM count_in_slot(p_tenant_id, p_user_id, -1, 1, (p_delay_seconds <= 0)::integer);
    "position" := put_events(p_tenant_id, p_user_id, p_run_id, p_events, interval '0.3 s');
END $$;

-- Lets a run wait for its user: RUNNING becomes WAITING, and the place is free for others. True when the attempt held it.
CREATE FUNCTION release_run(p_tenant_id text, p_user_id text, p_run_id text, p_epoch integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    UPDATE run SET state = 'WAITING', worker = NULL, lease_until = NULL, wait_time = clock_timestamp()
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch AND state = 'RUNNING';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM count_in_slot(p_tenant_id, p_user_id, -1, 0, 0);
    RETURN true;
END $$;

-- A run that waited goes on: WAITING becomes QUEUED and ready, for it has kept its thread. True when it was WAITING.
CREATE FUNCTION requeue_waiting(p_tenant_id text, p_user_id text, p_run_id text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    UPDATE run SET state = 'QUEUED', ready = true, wait_time = NULL,
            waited_seconds = waited_seconds + greatest(extract(epoch FROM clock_timestamp() - wait_time), 0.000001)
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND state = 'WAITING';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM count_in_slot(p_tenant_id, p_user_id, 0, 1, 1);
    RETURN true;
END $$;
"""

_SWEEPS = """
-- Takes in the runs whose time has come, of up to p_count users; returns how many can be claimed now. Locked slots are passed by.
CREATE FUNCTION wake_due_runs(p_count integer) RETURNS integer
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    slot record;
    woken integer;
    total integer := 0;
BEGIN
    FOR slot IN SELECT s.tenant_id, s.user_id FROM user_slot AS s JOIN (
            SELECT DISTINCT tenant_id, user_id FROM (
                SELECT tenant_id, user_id FROM run WHERE due_time <= now() ORDER BY due_time LIMIT p_count
            ) AS first
        ) AS due USING (tenant_id, user_id)
        ORDER BY s.tenant_id, s.user_id FOR UPDATE OF s SKIP LOCKED
    LOOP
        WITH due AS (
            UPDATE run SET due_time = NULL, ready = own_thread OR run_id = head_of_thread(tenant_id, user_id, thread_id)
            WHERE tenant_id = slot.tenant_id AND user_id = slot.user_id AND due_time <= now()
            RETURNING ready
        )
        SELECT count(*) FILTER (WHERE ready) INTO woken FROM due;
        IF woken > 0 THEN
            PERFORM count_in_slot(slot.tenant_id, slot.user_id, 0, 0, woken);
        END IF;
        total := total + woken;
    END LOOP;
    RETURN total;
END $$;

-- Ends up to p_count queued and waiting runs that are past their deadlines; returns them. Locked slots are passed by.
CREATE FUNCTION end_overdue_runs(p_count integer)
RETURNS TABLE (tenant_id text, user_id text, run_id text, agent text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    slot record;
    late record;
BEGIN
    FOR slot IN SELECT s.tenant_id, s.user_id FROM user_slot AS s JOIN (
            SELECT DISTINCT tenant_id, user_id FROM (
                SELECT tenant_id, user_id FROM run
                WHERE deadline <= now() AND state IN ('QUEUED', 'WAITING') ORDER BY deadline LIMIT p_count
            ) AS first
        ) AS due USING (tenant_id, user_id)
        ORDER BY s.tenant_id, s.user_id FOR UPDATE OF s SKIP LOCKED
    LOOP
        FOR late IN SELECT run.run_id, run.agent, run.thread_id, run.own_thread FROM run
            WHERE run.tenant_id = slot.tenant_id AND run.user_id = slot.user_id
                AND deadline <= now() AND state IN ('QUEUED', 'WAITING')
            ORDER BY deadline LIMIT p_count
        LOOP
            IF end_unheld(slot.tenant_id, slot.user_id, late.run_id, 'TIMED_OUT', 'DEADLINE_EXCEEDED',
                    'The run was not done at its deadline; give it more time.') THEN
                IF NOT late.own_thread THEN
                    PERFORM advance_thread(slot.tenant_id, slot.user_id, late.thread_id);
                END IF;
                tenant_id := slot.tenant_id;
                user_id := slot.user_id;
                run_id := late.run_id;
                agent := late.agent;
                RETURN NEXT;
            END IF;
        END LOOP;
    END LOOP;
END $$;
"""

_CLAIM = """
-- Takes up to p_count runs and none above a limit. The line is of users, by who has waited longest, and of tenants with a weight, each of
-- which stands in it as one. Who has taken as many turns as its weight goes to the end. Of a user's runs, the first of the ready ones.
-- It waits for nobody: slots of users and tenants that are locked are passed by. Whatever the tables hold, its indexes are the way
-- through them; a plan that was made while they were empty must not think otherwise. p_versions: agent -> version, a JSON object.
CREATE FUNCTION claim_runs(p_worker text, p_count integer, p_lease_seconds float8, p_running_limit integer, p_versions jsonb)
RETURNS TABLE (
    tenant_id text, user_id text, run_id text, thread_id text, agent text, epoch integer, input_json text, grant_bytes bytea,
    unsent bytea[], unsent_position bigint, elapsed_seconds float8, more boolean, shares_places boolean,
    timeout_seconds float8, deadline timestamptz, retries integer, agent_version text
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH free AS MATERIALIZED (  -- of tenants without a limit
        SELECT tenant_id, user_id, head_time AS place, ready, running, running_limit, false AS shares_places, false AS one_of_many
        FROM user_slot
        WHERE ready > 0 AND NOT counted AND running < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END
            -- Users whose tenant has got its limit just now wait until they are counted.
            AND NOT EXISTS (SELECT FROM tenant_slot AS t WHERE t.tenant_id = user_slot.tenant_id AND t.running_limit > 0)
        ORDER BY head_time LIMIT p_count FOR UPDATE SKIP LOCKED
    ), tenant AS MATERIALIZED (  -- by who has waited longest in each: none is looked at (which locks it) that could not be among the first
        SELECT line.tenant_id, line.turn_time, least(places, line.turns) AS places FROM (
            SELECT tenant_id, CASE WHEN weight > 0 THEN greatest(turn_time, head_time) END AS turn_time,
                   CASE WHEN weight > 0 THEN greatest(weight - turns, 1) ELSE p_count END AS turns
            FROM tenant_slot CROSS JOIN LATERAL (
                SELECT head_time FROM user_slot
                WHERE user_slot.tenant_id = tenant_slot.tenant_id AND ready > 0 AND counted
                    AND running < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END
                ORDER BY head_time LIMIT 1
            ) AS head
            WHERE tenant_slot.queued > 0
            ORDER BY CASE WHEN weight > 0 THEN greatest(turn_time, head_time) ELSE head_time END
        ) AS line CROSS JOIN LATERAL places_of_tenant(line.tenant_id) AS places
        WHERE places > 0 LIMIT p_count
    ), limited AS MATERIALIZED (  -- no more of a tenant than it has places; in `slot` all are in one line again
        SELECT waiting.* FROM tenant CROSS JOIN LATERAL (
            SELECT tenant_id, user_id, coalesce(tenant.turn_time, head_time) AS place, ready, running, running_limit,
                   true AS shares_places, tenant.turn_time IS NOT NULL AS one_of_many
            FROM user_slot
            WHERE user_slot.tenant_id = tenant.tenant_id AND ready > 0 AND counted
                AND running < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END
            ORDER BY head_time LIMIT least(tenant.places, p_count) FOR UPDATE SKIP LOCKED
        ) AS waiting
    ), slot AS MATERIALIZED (
        SELECT tenant_id, user_id, shares_places, one_of_many OR
               ready > 1 AND running + 1 < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END AS more
        FROM (SELECT * FROM free UNION ALL SELECT * FROM limited) AS line
        ORDER BY place LIMIT p_count
    ), next AS MATERIALIZED (
        SELECT slot.more, slot.shares_places, head.* FROM slot CROSS JOIN LATERAL (
            SELECT tenant_id, user_id, run_id FROM run
            WHERE run.tenant_id = slot.tenant_id AND run.user_id = slot.user_id AND run.ready
            ORDER BY priority DESC, create_time, run_id LIMIT 1 FOR UPDATE
        ) AS head
    ), claimed AS (
        UPDATE run SET state = 'RUNNING', ready = false, epoch = epoch + 1, worker = p_worker,
               start_time = coalesce(start_time, now()), lease_until = now() + make_interval(secs => p_lease_seconds),
               agent_version = CASE WHEN epoch = 0 THEN coalesce(p_versions ->> agent, '') ELSE agent_version END
        FROM next
        WHERE run.tenant_id = next.tenant_id AND run.user_id = next.user_id AND run.run_id = next.run_id
        RETURNING run.*, next.more, next.shares_places
    ), moved AS (
        UPDATE user_slot SET running = running + 1, queued = queued - 1, ready = user_slot.ready - 1,
               head_time = CASE WHEN turns + 1 < weight THEN head_time ELSE now() END,
               turns = CASE WHEN turns + 1 < weight THEN turns + 1 ELSE 0 END
        FROM claimed
        WHERE user_slot.tenant_id = claimed.tenant_id AND user_slot.user_id = claimed.user_id
    ), served AS (
        UPDATE tenant_slot SET turn_time = CASE WHEN turns + taken.runs < weight THEN turn_time ELSE now() END,
               turns = CASE WHEN turns + taken.runs < weight THEN turns + taken.runs ELSE 0 END
        FROM (SELECT tenant_id, count(*)::integer AS runs FROM claimed WHERE claimed.shares_places GROUP BY tenant_id) AS taken
        WHERE tenant_slot.tenant_id = taken.tenant_id AND weight > 0
    )
    SELECT c.tenant_id, c.user_id, c.run_id, c.thread_id, c.agent, c.epoch, c.input_json, c.grant_bytes,
           coalesce(told.events, '{}') AS unsent, coalesce(told.last, 0) AS unsent_position,
           CAST(extract(epoch FROM now() - c.start_time) AS float8) - c.waited_seconds AS elapsed_seconds, c.more, c.shares_places,
           c.timeout_seconds, c.deadline, c.retries, c.agent_version
    FROM claimed AS c LEFT JOIN LATERAL (  -- what attempts before have left in the outbox: it comes before all that this one tells
        SELECT array_agg(event ORDER BY position) AS events, max(position) AS last FROM outbox
        WHERE outbox.tenant_id = c.tenant_id AND outbox.user_id = c.user_id AND outbox.run_id = c.run_id
    ) AS told ON true;
END $$;
"""

_BOTH = "count_in_slot, head_of_thread, advance_thread, close_waits, put_events, end_unheld, interrupt_thread, requeue_waiting"
_ONLY_ROLE = "accept_run, cancel_run, breaker_open_until"
_ONLY_RUNNER = "finish_run, note_ending, retry_run, release_run, wake_due_runs, end_overdue_runs, claim_runs"


def upgrade() -> None:
    execute_script(
        op,
        """
        DROP FUNCTION accept_run(text, text, text, text, text, text, bytea, text, bytea, bytea, integer, integer);
        DROP FUNCTION accept_run(text, text, text, text, text, text, bytea, text, bytea, bytea, integer, integer, integer, integer,
            timestamptz);
        DROP FUNCTION cancel_run, finish_run, claim_runs;
        """,
    )
    execute_script(op, _TABLES + _STEPS + _ACCEPT + _CANCEL + _HELD + _SWEEPS + _CLAIM)
    execute_script(
        op,
        f"""
        REVOKE ALL ON FUNCTION {_BOTH}, {_ONLY_ROLE}, {_ONLY_RUNNER} FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION {_BOTH} TO {_ROLE}, {_RUNNER};
        GRANT EXECUTE ON FUNCTION {_ONLY_ROLE} TO {_ROLE};
        GRANT EXECUTE ON FUNCTION {_ONLY_RUNNER} TO {_RUNNER};
        """,
    )
