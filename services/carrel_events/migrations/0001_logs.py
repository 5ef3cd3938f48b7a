"""The logs: a head per user, the events, and the latest attempt of each run."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import own_rows

revision = "0001"
down_revision = None

_TABLES = """
-- One row per user: which log it is and how far it goes. Whoever has locked it is the only one that gives out offsets.
CREATE TABLE user_log (
    tenant_id     text   NOT NULL,
    user_id       text   NOT NULL,
    -- Seconds since 1970 at the log's beginning: a log in a new database never has the epoch of the one it replaces.
    epoch         bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp())::bigint,
    oldest_offset bigint NOT NULL DEFAULT 1,
    last_offset   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, user_id),
    CHECK (oldest_offset BETWEEN 1 AND last_offset + 1)
);

-- Fencing: what a run's older attempts write after this is refused.
CREATE TABLE run_attempt (
    tenant_id text   NOT NULL,
    user_id   text   NOT NULL,
    run_id    text   NOT NULL,
    attempt   bigint NOT NULL,
    PRIMARY KEY (tenant_id, user_id, run_id)
);

-- `body` is the serialized Event without its cursor; the other columns are what it is found by.
CREATE TABLE event (
    tenant_id   text        NOT NULL,
    user_id     text        NOT NULL,
    log_offset  bigint      NOT NULL CHECK (log_offset > 0),
    event_id    text        NOT NULL,
    run_id      text        NOT NULL,
    thread_id   text        NOT NULL,
    type        text        NOT NULL,
    create_time timestamptz NOT NULL,
    body        bytea       NOT NULL,
    PRIMARY KEY (tenant_id, user_id, log_offset),
    UNIQUE (tenant_id, user_id, event_id)
);
"""

_APPEND = """
-- Appends what is new of a batch, all or none, as the caller's role and under its policies. `stale` says that a later attempt
-- of the run has written, and that nothing was done; the new ids have the offsets up to `log_last`, in their order.
CREATE FUNCTION append_events(
    owner_tenant text, owner_user text, run text, thread text, writing_attempt bigint,
    ids text[], types text[], times timestamptz[], bodies bytea[]
) RETURNS TABLE (stale boolean, log_epoch bigint, log_last bigint, new_ids text[])
LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
    latest bigint;
BEGIN
    SELECT epoch, last_offset INTO log_epoch, log_last FROM user_log
        WHERE tenant_id = owner_tenant AND user_id = owner_user FOR UPDATE;
    IF NOT FOUND THEN
        -- Somebody else may be making it: the insert waits for them, and the next statement sees what they made.
        INSERT INTO user_log (tenant_id, user_id) VALUES (owner_tenant, owner_user) ON CONFLICT DO NOTHING;
        SELECT epoch, last_offset INTO log_epoch, log_last FROM user_log
            WHERE tenant_id = owner_tenant AND user_id = owner_user FOR UPDATE;
    END IF;

    SELECT attempt INTO latest FROM run_attempt
        WHERE tenant_id = owner_tenant AND user_id = owner_user AND run_id = run;
    stale := coalesce(latest > writing_attempt, false);
    new_ids := '{}';
    IF stale THEN
        RETURN NEXT;
        RETURN;
    END IF;
    IF latest IS DISTINCT FROM writing_attempt THEN
        INSERT INTO run_attempt (tenant_id, user_id, run_id, attempt) VALUES (owner_tenant, owner_user, run, writing_attempt)
            ON CONFLICT (tenant_id, user_id, run_id) DO UPDATE SET attempt = EXCLUDED.attempt;
    END IF;

    WITH fresh AS (
        SELECT sent.*, row_number() OVER (ORDER BY sent.place) AS step
        FROM unnest(ids, types, times, bodies) WITH ORDINALITY AS sent (id, kind, create_time, body, place)
        WHERE NOT EXISTS (
            SELECT FROM event AS kept
            WHERE kept.tenant_id = owner_tenant AND kept.user_id = owner_user AND kept.event_id = sent.id
        )
    ), added AS (
        INSERT INTO event (tenant_id, user_id, log_offset, event_id, run_id, thread_id, type, create_time, body)
        SELECT owner_tenant, owner_user, log_last + step, id, run, thread, kind, create_time, body FROM fresh
        RETURNING event_id, log_offset
    )
    SELECT coalesce(array_agg(event_id ORDER BY log_offset), '{}') INTO new_ids FROM added;

    IF new_ids <> '{}' THEN
        log_last := log_last + cardinality(new_ids);
        UPDATE user_log SET last_offset = log_last WHERE tenant_id = owner_tenant AND user_id = owner_user;
    END IF;
    RETURN NEXT;
END $$;

REVOKE ALL ON FUNCTION append_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_events TO carrel_events;
"""


def upgrade() -> None:
    """Makes them. The service may add to its events and not change them."""
    execute_script(op, _TABLES)
    execute_script(op, own_rows("user_log", "carrel_events", "SELECT, INSERT, UPDATE"))
    execute_script(op, own_rows("run_attempt", "carrel_events", "SELECT, INSERT, UPDATE"))
    execute_script(op, own_rows("event", "carrel_events", "SELECT, INSERT"))
    execute_script(op, _APPEND)
