"""Functions: each transition of a run is one statement for its caller. They run with the rights, and the row security, of the caller.

Whoever changes a run's place in the counters locks the user's slot first and the run second; with one order nobody deadlocks.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script

revision = "0002"
down_revision = "0001"

_ACCEPT = """
-- The accepted run, or the one that this request_id had started before; no row when the user's queue is full.
CREATE FUNCTION accept_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_thread_id text, p_agent text, p_request_id text,
    p_request_digest bytea, p_input_json text, p_grant bytea, p_event bytea, p_queued_limit integer, p_running_limit integer
) RETURNS SETOF run LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT * FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND request_id = p_request_id;
    IF FOUND THEN
        RETURN;
    END IF;
    INSERT INTO user_slot AS slot (tenant_id, user_id, queued, running_limit, head_time)
        VALUES (p_tenant_id, p_user_id, 1, p_running_limit, now())
        ON CONFLICT (tenant_id, user_id) DO UPDATE SET
            queued = slot.queued + 1,
            running_limit = p_running_limit,
            head_time = CASE WHEN slot.queued = 0 THEN now() ELSE slot.head_time END
        WHERE slot.queued < p_queued_limit;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- The clock is read under the slot's lock: create_time is the order in which the user's runs were accepted.
    INSERT INTO run (tenant_id, user_id, run_id, thread_id, agent, request_id, request_digest, input_json, grant_bytes, create_time)
        VALUES (p_tenant_id, p_user_id, p_run_id, p_thread_id, p_agent, p_request_id, p_request_digest, p_input_json, p_grant,
                clock_timestamp())
        ON CONFLICT (tenant_id, user_id, request_id) DO NOTHING;
    IF FOUND THEN
        INSERT INTO outbox (tenant_id, user_id, run_id, position, event, create_time, due_time)
            VALUES (p_tenant_id, p_user_id, p_run_id, 0, p_event, now(), now() + interval '0.3 s');
    ELSE  -- the same request came twice at once, and the other was first
        UPDATE user_slot SET queued = queued - 1 WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
    END IF;
    RETURN QUERY SELECT * FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND request_id = p_request_id;
END $$;
"""

_CANCEL = """
-- The run as it is after the request to stop; no row when the user has no such run.
CREATE FUNCTION cancel_run(p_tenant_id text, p_user_id text, p_run_id text, p_reason text, p_event bytea)
RETURNS SETOF run LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    UPDATE run SET state = 'CANCELLED', cancel_requested = true, cancel_reason = p_reason, finish_time = clock_timestamp()
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND state IN ('QUEUED', 'WAITING');
    IF FOUND THEN
        UPDATE user_slot SET queued = queued - 1 WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
        INSERT INTO outbox (tenant_id, user_id, run_id, position, event, create_time, due_time)
            VALUES (p_tenant_id, p_user_id, p_run_id, 1, p_event, now(), now());
    ELSE
        UPDATE run SET state = 'CANCELLING', cancel_requested = true, cancel_reason = p_reason
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND state = 'RUNNING';
    END IF;
    RETURN QUERY SELECT * FROM run WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id;
END $$;
"""

_FINISH = """
-- Ends a run, for the attempt that holds it and for no other. `ended` is
--   FINISHED    done; the events are in the outbox
--   CANCELLING  its user has asked it to stop: only CANCELLED may end it
--   STALE       the attempt no longer holds the run; nothing was changed
-- With p_only_expired it ends a run whose worker is lost, unless the worker has come back.
CREATE FUNCTION finish_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_epoch integer, p_only_expired boolean, p_state text,
    p_result_json text, p_error_reason text, p_error_message text, p_events bytea[]
) RETURNS TABLE (ended text, reason text, waiting boolean) LANGUAGE plpgsql AS $$
BEGIN
    waiting := coalesce((SELECT slot.queued > 0 FROM user_slot AS slot
        WHERE slot.tenant_id = p_tenant_id AND slot.user_id = p_user_id FOR UPDATE), false);
    UPDATE run SET state = p_state, result_json = p_result_json, error_reason = p_error_reason, error_message = p_error_message,
            worker = NULL, lease_until = NULL, finish_time = clock_timestamp()
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch
            AND (state = 'RUNNING' OR state = 'CANCELLING' AND p_state = 'CANCELLED')
            AND (NOT p_only_expired OR lease_until < now())
        RETURNING 'FINISHED', cancel_reason INTO ended, reason;
    IF FOUND THEN
        UPDATE user_slot SET running = running - 1 WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
        INSERT INTO outbox (tenant_id, user_id, run_id, position, event, create_time, due_time)
            SELECT p_tenant_id, p_user_id, p_run_id, sent.position, sent.event, now(), now() + interval '0.3 s'
            FROM unnest(p_events) WITH ORDINALITY AS sent (event, position);
    ELSE
        SELECT 'CANCELLING', cancel_reason INTO ended, reason FROM run
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch
                AND state = 'CANCELLING' AND NOT p_only_expired;
        ended := coalesce(ended, 'STALE');
        reason := coalesce(reason, '');
    END IF;
    RETURN NEXT;
END $$;
"""

_REQUEUE = """
-- Puts one run back into its user's queue, at its old place, if this attempt still holds it; true when it did.
-- Of a lost worker's runs, those whose slot is locked are left for the next time.
CREATE FUNCTION requeue_run(p_tenant_id text, p_user_id text, p_run_id text, p_epoch integer, p_lost boolean)
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
    UPDATE run SET state = 'QUEUED', worker = NULL, lease_until = NULL, lost_leases = lost_leases + p_lost::integer
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id AND epoch = p_epoch AND state = 'RUNNING'
            AND (NOT p_lost OR lease_until < now());
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE user_slot SET running = running - 1, queued = queued + 1,
            head_time = CASE WHEN queued = 0 THEN now() ELSE head_time END
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
    RETURN true;
END $$;
"""


def upgrade() -> None:
    execute_script(op, _ACCEPT + _CANCEL + _FINISH + _REQUEUE)
    execute_script(
        op,
        """
        REVOKE ALL ON FUNCTION accept_run, cancel_run, finish_run, requeue_run FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION accept_run, cancel_run TO carrel_execution;
        GRANT EXECUTE ON FUNCTION finish_run, requeue_run TO carrel_execution_runner;
        """,
    )
