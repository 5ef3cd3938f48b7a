"""Events in segments that retention empties whole, and appends for many users in one statement, under roles of their own."""

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0002"
down_revision = "0001"

SEGMENTS = ("event_0", "event_1", "event_2", "event_3", "event_kept")

_SEGMENTS = """
-- A ring of four: one is written to, those before it are kept, the last of them is emptied before its turn comes again.
-- Nothing is created or dropped while the service runs, and a segment is emptied by TRUNCATE: its cost is that of no event.
CREATE TABLE segment (
    number     smallint PRIMARY KEY CHECK (number BETWEEN 0 AND 3),
    -- NULL: it is empty. With a beginning and no end it is the one that is written to.
    begin_time timestamptz,
    end_time   timestamptz,
    CHECK (end_time IS NULL OR begin_time <= end_time)
);
CREATE UNIQUE INDEX segment_written_to ON segment ((true)) WHERE begin_time IS NOT NULL AND end_time IS NULL;
INSERT INTO segment (number, begin_time) VALUES (0, now()), (1, NULL), (2, NULL), (3, NULL);

DROP FUNCTION append_events;

-- What there is becomes the first segment.
ALTER TABLE event RENAME TO event_0;
ALTER TABLE event_0 DROP CONSTRAINT event_pkey, DROP CONSTRAINT event_tenant_id_user_id_event_id_key,
    DROP CONSTRAINT event_log_offset_check;
ALTER TABLE event_0 ADD COLUMN segment smallint NOT NULL DEFAULT 0;
ALTER TABLE event_0 ALTER COLUMN segment DROP DEFAULT;
REVOKE ALL ON event_0, run_attempt, user_log FROM carrel_events;

CREATE TABLE event (
    tenant_id   text        NOT NULL,
    user_id     text        NOT NULL,
    log_offset  bigint      NOT NULL,
    event_id    text        NOT NULL,
    run_id      text        NOT NULL,
    thread_id   text        NOT NULL,
    type        text        NOT NULL,
    create_time timestamptz NOT NULL,
    body        bytea       NOT NULL,
    segment     smallint    NOT NULL,
    PRIMARY KEY (tenant_id, user_id, log_offset, segment),
    UNIQUE (tenant_id, user_id, event_id, segment)
) PARTITION BY LIST (segment);
-- A watched run is read by itself, however much else its user has.
CREATE INDEX event_of_run ON event (tenant_id, user_id, run_id, log_offset);

ALTER TABLE event ATTACH PARTITION event_0 FOR VALUES IN (0);
CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2);
CREATE TABLE event_3 PARTITION OF event FOR VALUES IN (3);
-- What outlives its segment, because its user has so few events.
CREATE TABLE event_kept PARTITION OF event FOR VALUES IN (-1);
"""

_APPEND = """
-- Appends what is new of many appends of many users, each all or none, in one transaction. The first five arrays have an entry
-- for each append, the others for each event; `appends` says to which append, from 1, an event belongs.
-- `stale` says of an append that a later attempt of its run has written and that it did nothing. The log of its user now ends
-- at `log_last`; the events of `new_ids` are those that it added, at `new_offsets`.
CREATE FUNCTION append_events(
    tenants text[], users text[], runs text[], threads text[], attempts bigint[],
    appends int[], ids text[], types text[], times timestamptz[], bodies bytea[]
) RETURNS TABLE (number bigint, stale boolean, log_epoch bigint, log_last bigint, new_ids text[], new_offsets bigint[])
LANGUAGE plpgsql SECURITY INVOKER AS $$
DECLARE
    stales boolean[];
    written_to smallint;
BEGIN
    -- Logs that are missing come before any lock and logs are locked in one order: so no two of these can wait for each other.
    INSERT INTO user_log (tenant_id, user_id)
        SELECT DISTINCT tenant, usr FROM unnest(tenants, users) AS sent (tenant, usr)
        WHERE NOT EXISTS (SELECT FROM user_log AS log WHERE log.tenant_id = tenant AND log.user_id = usr)
        ORDER BY 1, 2
        ON CONFLICT DO NOTHING;
    PERFORM FROM user_log AS log JOIN (SELECT DISTINCT tenant, usr FROM unnest(tenants, users) AS sent (tenant, usr)) AS owner
        ON log.tenant_id = tenant AND log.user_id = usr
        ORDER BY log.tenant_id, log.user_id
        FOR NO KEY UPDATE OF log;

    -- Fenced off by what an earlier transaction wrote, or an earlier append of this one.
    SELECT array_agg(attempt < greatest(kept, latest) ORDER BY place) INTO stales
    FROM (
        SELECT place, sent.attempt, max(sent.attempt) OVER (PARTITION BY tenant, usr, run ORDER BY place) AS latest,
            (SELECT r.attempt FROM run_attempt AS r WHERE r.tenant_id = tenant AND r.user_id = usr AND r.run_id = run) AS kept
        FROM unnest(tenants, users, runs, attempts) WITH ORDINALITY AS sent (tenant, usr, run, attempt, place)
    ) AS judged;
    INSERT INTO run_attempt (tenant_id, user_id, run_id, attempt)
        SELECT tenant, usr, run, max(sent.attempt) FROM unnest(tenants, users, runs, attempts) AS sent (tenant, usr, run, attempt)
        GROUP BY tenant, usr, run
        HAVING NOT EXISTS (
            SELECT FROM run_attempt AS r
            WHERE r.tenant_id = tenant AND r.user_id = usr AND r.run_id = run AND r.attempt >= max(sent.attempt)
        )
        ON CONFLICT (tenant_id, user_id, run_id) DO UPDATE SET attempt = EXCLUDED.attempt;

    SELECT s.number INTO STRICT written_to FROM segment AS s WHERE s.begin_time IS NOT NULL AND s.end_time IS NULL;
    RETURN QUERY
    WITH sent AS (
        SELECT tenants[append] AS tenant_id, users[append] AS user_id, append, id, kind, create_time, body, place
        FROM unnest(appends, ids, types, times, bodies) WITH ORDINALITY AS sent (append, id, kind, create_time, body, place)
        WHERE NOT stales[append]
    ), fresh AS MATERIALIZED (
        SELECT once.*, row_number() OVER (PARTITION BY once.tenant_id, once.user_id ORDER BY place) AS step
        FROM (SELECT DISTINCT ON (s.tenant_id, s.user_id, s.id) s.* FROM sent AS s ORDER BY s.tenant_id, s.user_id, s.id, s.place) AS once
        WHERE NOT EXISTS (
            SELECT FROM event AS kept
            WHERE kept.tenant_id = once.tenant_id AND kept.user_id = once.user_id AND kept.event_id = once.id
        )
    ), added AS (
        INSERT INTO event (tenant_id, user_id, log_offset, event_id, run_id, thread_id, type, create_time, body, segment)
        SELECT f.tenant_id, f.user_id, log.last_offset + f.step, f.id, runs[f.append], threads[f.append], f.kind, f.create_time, f.body,
            written_to
        FROM fresh AS f JOIN user_log AS log ON log.tenant_id = f.tenant_id AND log.user_id = f.user_id
    ), grown AS (
        SELECT f.tenant_id, f.user_id, count(*) AS steps FROM fresh AS f GROUP BY f.tenant_id, f.user_id
    ), moved AS (
        UPDATE user_log AS log SET last_offset = log.last_offset + grown.steps FROM grown
        WHERE log.tenant_id = grown.tenant_id AND log.user_id = grown.user_id
    )
    SELECT owner.place, stales[owner.place], log.epoch, log.last_offset + coalesce(grown.steps, 0),
        coalesce(array_agg(f.id ORDER BY f.step) FILTER (WHERE f.id IS NOT NULL), '{}'),
        coalesce(array_agg(log.last_offset + f.step ORDER BY f.step) FILTER (WHERE f.id IS NOT NULL), '{}')
    FROM unnest(tenants, users) WITH ORDINALITY AS owner (tenant, usr, place)
    JOIN user_log AS log ON log.tenant_id = owner.tenant AND log.user_id = owner.usr
    LEFT JOIN grown ON grown.tenant_id = owner.tenant AND grown.user_id = owner.usr
    LEFT JOIN fresh AS f ON f.append = owner.place
    GROUP BY owner.place, log.epoch, log.last_offset, grown.steps;
END $$;
REVOKE ALL ON FUNCTION append_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_events TO carrel_events_writer;

-- The writer counts and adds; what is in an event, it cannot read.
GRANT SELECT (tenant_id, user_id, event_id), INSERT ON event TO carrel_events_writer;
CREATE POLICY across_users_carrel_events_writer ON event TO carrel_events_writer USING (true) WITH CHECK (true);
GRANT SELECT ON segment TO carrel_events_writer;
"""

_RETENTION = """
GRANT SELECT, UPDATE ON segment TO carrel_events_retention;

-- Empties a segment that has ended; what of it is kept has been copied in the same transaction. Only an owner may truncate, so the
-- function is the owner's: it takes no table's name and refuses the segment that is written to.
CREATE FUNCTION empty_segment(emptied smallint) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = events, pg_temp AS $$
BEGIN
    PERFORM FROM segment WHERE number = emptied AND end_time IS NOT NULL FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'segment % has not ended', emptied;
    END IF;
    EXECUTE format('TRUNCATE event_%s', emptied);
    UPDATE segment SET begin_time = NULL, end_time = NULL WHERE number = emptied;
END $$;
REVOKE ALL ON FUNCTION empty_segment FROM PUBLIC;
GRANT EXECUTE ON FUNCTION empty_segment TO carrel_events_retention;
"""


def upgrade() -> None:
    """Makes them. The service reads, the writer adds, retention removes; none of them can do what another does."""
    execute_script(op, _SEGMENTS)
    execute_script(op, own_rows("event", "carrel_events", "SELECT"))
    for segment in SEGMENTS[1:]:
        execute_script(op, own_rows(segment, "carrel_events", "SELECT"))
    execute_script(op, "GRANT SELECT ON event_0, run_attempt, user_log TO carrel_events;")
    execute_script(op, across_users("user_log", "carrel_events_writer", "SELECT, INSERT, UPDATE (last_offset)"))
    execute_script(op, across_users("run_attempt", "carrel_events_writer", "SELECT, INSERT, UPDATE (attempt)"))
    execute_script(op, _APPEND)
    execute_script(op, across_users("event", "carrel_events_retention", "SELECT, INSERT, DELETE"))
    execute_script(op, across_users("user_log", "carrel_events_retention", "SELECT, UPDATE"))
    execute_script(op, across_users("run_attempt", "carrel_events_retention", "SELECT, DELETE"))
    execute_script(op, _RETENTION)
