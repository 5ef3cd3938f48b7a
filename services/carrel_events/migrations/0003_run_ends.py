"""The end of a run is the last of its events, whoever still writes: a worker that was paused, and whose run ended without it, may have
an append under way that names the attempt by which the run ended.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script

revision = "0003"
down_revision = "0002"

_ENDED = """
-- The run has its final event.
ALTER TABLE run_attempt ADD COLUMN ended boolean NOT NULL DEFAULT false;
GRANT UPDATE (ended) ON run_attempt TO carrel_events_writer;
DROP FUNCTION append_events;
"""

_APPEND = """
-- Appends what is new of many appends of many users, each all or none, in one transaction. The first five arrays have an entry
-- for each append, the others for each event; `appends` says to which append, from 1, an event belongs.
-- `stale` says of an append that a later attempt of its run has written and that it did nothing. What comes after the final event of
-- its run is passed over, as what the log has already. The log of its user now ends at `log_last`; the events of `new_ids` are those
-- that the append added, at `new_offsets`.
CREATE FUNCTION append_events(
    tenants text[], users text[], runs text[], threads text[], attempts bigint[],
    appends int[], ids text[], types text[], times timestamptz[], bodies bytea[], finals boolean[]
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
    WITH given AS (
        SELECT tenants[append] AS tenant_id, users[append] AS user_id, append, id, kind, create_time, body, place,
            bool_or(final) OVER (
                PARTITION BY tenants[append], users[append], runs[append] ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS late
        FROM unnest(appends, ids, types, times, bodies, finals) WITH ORDINALITY
            AS sent (append, id, kind, create_time, body, final, place)
        WHERE NOT stales[append]
    ), sent AS (
        SELECT g.* FROM given AS g
        WHERE late IS NOT TRUE AND NOT EXISTS (
            SELECT FROM run_attempt AS r
            WHERE r.tenant_id = g.tenant_id AND r.user_id = g.user_id AND r.run_id = runs[g.append] AND r.ended
        )
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

    UPDATE run_attempt AS r SET ended = true
        FROM (SELECT DISTINCT append FROM unnest(appends, finals) AS sent (append, final) WHERE final AND NOT stales[append]) AS last
        WHERE r.tenant_id = tenants[append] AND r.user_id = users[append] AND r.run_id = runs[append] AND NOT r.ended;
END $$;
REVOKE ALL ON FUNCTION append_events FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_events TO carrel_events_writer;
"""


def upgrade() -> None:
    execute_script(op, _ENDED + _APPEND)
