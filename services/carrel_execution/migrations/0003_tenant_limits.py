"""Limits of a tenant: on the runs that wait, kept by `accept_run`, and on those that are worked on, kept by the claim.

Only tenants with a limit are counted. Whether a user's runs are counted stands in the user's slot, so the slots of all other tenants
are read and written as before.

The order of locks: users' slots, then runs, then tenants' slots, these by tenant. A trigger that waits for the commit changes the
tenants' counters, so they come last whatever a transaction does before. `accept_run` takes its tenant earlier, and then adds a run
that nobody else can hold; claims and `count_in` wait for no slot at all: what is locked they pass by.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_tenant

revision = "0003"
down_revision = "0002"

_ROLE, _RUNNER = "carrel_execution", "carrel_execution_runner"

_TABLES = f"""
CREATE TABLE tenant_slot (
    tenant_id     text        NOT NULL PRIMARY KEY,
    -- The runs that wait, of the users whose slots say that they are counted.
    queued        integer     NOT NULL DEFAULT 0 CHECK (queued >= 0),
    -- 0: no limit. What is worked on is not counted here: a claim counts the runs themselves.
    queued_limit  integer     NOT NULL,
    running_limit integer     NOT NULL,
    -- When the context was issued that brought the limits: an older one does not bring back what held before.
    limit_time    timestamptz NOT NULL
) WITH (fillfactor = 50);
ALTER TABLE tenant_slot ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_slot FORCE ROW LEVEL SECURITY;
{own_tenant("tenant_slot", _ROLE, "SELECT, INSERT, UPDATE")}
{across_users("tenant_slot", _RUNNER, "SELECT, UPDATE")}

ALTER TABLE user_slot ADD COLUMN counted boolean NOT NULL DEFAULT false;
-- Two lines: a tenant that is at its limit, however many of its users wait, is in nobody else's way.
DROP INDEX user_slot_line;
CREATE INDEX user_slot_line ON user_slot (head_time) WHERE queued > 0 AND NOT counted;
CREATE INDEX user_slot_line_of_tenant ON user_slot (tenant_id, head_time) WHERE queued > 0 AND counted;
"""

_COUNTED = """
-- The tenant's counter follows those of its counted users, whichever transition changes them.
CREATE FUNCTION count_for_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tenant_slot SET queued = queued + NEW.queued * NEW.counted::integer - OLD.queued * OLD.counted::integer
        WHERE tenant_id = NEW.tenant_id;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER count_for_tenant AFTER UPDATE ON user_slot DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.counted OR NEW.counted) AND (OLD.queued <> NEW.queued OR OLD.counted <> NEW.counted))
    EXECUTE FUNCTION count_for_tenant();
"""

_PLACES = """
-- How many more runs of the tenant may be worked on; until the caller's commit nobody else is told. 0 while another has been told.
CREATE FUNCTION places_of_tenant(p_tenant_id text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    most integer;
BEGIN
    SELECT running_limit INTO most FROM tenant_slot WHERE tenant_id = p_tenant_id FOR UPDATE SKIP LOCKED;
    IF most = 0 THEN
        RETURN 2147483647;
    END IF;
    -- A statement of its own, and so with a view of its own: it sees what whoever held the lock before has claimed.
    RETURN coalesce(greatest(0, most - (SELECT count(*) FROM run
        WHERE tenant_id = p_tenant_id AND state IN ('RUNNING', 'CANCELLING'))::integer), 0);
END $$;
"""

_ACCEPT = """
-- `accepted` is the run, or the one that this request_id had started before. When a queue is full it is NULL: `full_queue` says which
-- ('queued_runs' the user's, 'tenant_queued_runs' the tenant's), and `most` how many may wait.
-- The function of the same name without a tenant's limits is that of processes which have not been replaced yet.
CREATE FUNCTION accept_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_thread_id text, p_agent text, p_request_id text,
    p_request_digest bytea, p_input_json text, p_grant bytea, p_event bytea, p_queued_limit integer, p_running_limit integer,
    p_tenant_queued_limit integer, p_tenant_running_limit integer, p_limit_time timestamptz,
    OUT accepted run, OUT full_queue text, OUT most integer
) LANGUAGE plpgsql AS $$
DECLARE
    own_queued integer;
    was_counted boolean;
    limited boolean;
    others integer;
BEGIN
    SELECT * INTO accepted FROM run
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
        WHERE slot.queued < p_queued_limit
        RETURNING slot.queued, slot.counted, p_tenant_queued_limit > 0 OR p_tenant_running_limit > 0
            OR EXISTS (SELECT FROM tenant_slot WHERE tenant_id = p_tenant_id)
        INTO own_queued, was_counted, limited;
    IF NOT FOUND THEN
        full_queue := 'queued_runs';
        most := p_queued_limit;
        RETURN;
    END IF;
    IF limited THEN
        -- From here to the commit no other run of the tenant is accepted: `others` wait, this one not among them.
        INSERT INTO tenant_slot AS tenant (tenant_id, queued_limit, running_limit, limit_time)
            VALUES (p_tenant_id, p_tenant_queued_limit, p_tenant_running_limit, p_limit_time)
            ON CONFLICT (tenant_id) DO UPDATE SET
                queued_limit = CASE WHEN p_limit_time < tenant.limit_time THEN tenant.queued_limit ELSE p_tenant_queued_limit END,
                running_limit = CASE WHEN p_limit_time < tenant.limit_time THEN tenant.running_limit ELSE p_tenant_running_limit END,
                limit_time = greatest(tenant.limit_time, p_limit_time)
            RETURNING tenant.queued + CASE WHEN was_counted THEN 0 ELSE own_queued - 1 END, tenant.queued_limit,
                tenant.queued_limit > 0 OR tenant.running_limit > 0
            INTO others, most, limited;
        IF most > 0 AND others >= most THEN
            full_queue := 'tenant_queued_runs';
        END IF;
        IF limited <> was_counted OR full_queue IS NOT NULL THEN
            UPDATE user_slot SET counted = limited, queued = queued - (full_queue IS NOT NULL)::integer
                WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
        END IF;
        IF full_queue IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    -- The clock is read under the slot's lock: create_time is the order in which the user's runs were accepted.
    INSERT INTO run (tenant_id, user_id, run_id, thread_id, agent, request_id, request_digest, input_json, grant_bytes, create_time)
        VALUES (p_tenant_id, p_user_id, p_run_id, p_thread_id, p_agent, p_request_id, p_request_digest, p_input_json, p_grant,
                clock_timestamp())
        ON CONFLICT (tenant_id, user_id, request_id) DO NOTHING
        RETURNING * INTO accepted;
    IF FOUND THEN
        INSERT INTO outbox (tenant_id, user_id, run_id, position, event, create_time, due_time)
            VALUES (p_tenant_id, p_user_id, p_run_id, 0, p_event, now(), now() + interval '0.3 s');
    ELSE  -- the same request came twice at once, and the other was first
        UPDATE user_slot SET queued = queued - 1 WHERE tenant_id = p_tenant_id AND user_id = p_user_id;
        SELECT * INTO accepted FROM run
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND request_id = p_request_id;
    END IF;
END $$;
"""

_ACCEPT_RUN = (
    f"accept_run({', '.join(['text'] * 6)}, bytea, text, bytea, bytea, {', '.join(['integer'] * 4)}, timestamptz)"
)


def upgrade() -> None:
    execute_script(op, _TABLES + _COUNTED + _PLACES + _ACCEPT)
    execute_script(
        op,
        f"""
        REVOKE ALL ON FUNCTION count_for_tenant, places_of_tenant, {_ACCEPT_RUN} FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION {_ACCEPT_RUN} TO {_ROLE};
        GRANT EXECUTE ON FUNCTION places_of_tenant TO {_RUNNER};
        """,
    )
