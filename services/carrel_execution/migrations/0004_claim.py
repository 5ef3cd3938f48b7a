"""The claim as a function, which is planned once and not for each call: planning it took longer than all that it does."""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script

revision = "0004"
down_revision = "0003"

_CLAIM = """
-- Takes up to p_count runs, the oldest of each of the users who have waited longest, and none above a tenant's limit.
-- It waits for nobody: slots of users and tenants that are locked are passed by. Whatever the tables hold, its indexes are the way
-- through them; a plan that was made while they were empty must not think otherwise.
CREATE FUNCTION claim_runs(p_worker text, p_count integer, p_lease_seconds float8, p_running_limit integer)
RETURNS TABLE (
    tenant_id text, user_id text, run_id text, thread_id text, agent text, epoch integer, input_json text, grant_bytes bytea,
    queued_event bytea, elapsed_seconds float8, more boolean, shares_places boolean
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH free AS MATERIALIZED (  -- of tenants without a limit
        SELECT tenant_id, user_id, head_time, queued, running, running_limit, false AS shares_places
        FROM user_slot
        WHERE queued > 0 AND NOT counted AND running < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END
            -- Users whose tenant has got its limit just now wait until they are counted.
            AND NOT EXISTS (SELECT FROM tenant_slot AS t WHERE t.tenant_id = user_slot.tenant_id AND t.running_limit > 0)
        ORDER BY head_time LIMIT p_count FOR UPDATE SKIP LOCKED
    ), tenant AS MATERIALIZED (  -- by who has waited longest in each: none is looked at (which locks it) that could not be among the first
        SELECT line.tenant_id, places FROM (
            SELECT tenant_id, head_time FROM tenant_slot CROSS JOIN LATERAL (
                SELECT head_time FROM user_slot
                WHERE user_slot.tenant_id = tenant_slot.tenant_id AND queued > 0 AND counted
                    AND running < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END
                ORDER BY head_time LIMIT 1
            ) AS head
            WHERE tenant_slot.queued > 0 ORDER BY head_time
        ) AS line CROSS JOIN LATERAL places_of_tenant(line.tenant_id) AS places
        WHERE places > 0 LIMIT p_count
    ), limited AS MATERIALIZED (  -- no more of a tenant than it has places; in `slot` all are in one line again
        SELECT waiting.* FROM tenant CROSS JOIN LATERAL (
            SELECT tenant_id, user_id, head_time, queued, running, running_limit, true AS shares_places
            FROM user_slot
            WHERE user_slot.tenant_id = tenant.tenant_id AND queued > 0 AND counted
                AND running < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END
            ORDER BY head_time LIMIT least(tenant.places, p_count) FOR UPDATE SKIP LOCKED
        ) AS waiting
    ), slot AS MATERIALIZED (
        SELECT tenant_id, user_id, shares_places,
               queued > 1 AND running + 1 < CASE WHEN running_limit > 0 THEN running_limit ELSE p_running_limit END AS more
        FROM (SELECT * FROM free UNION ALL SELECT * FROM limited) AS line
        ORDER BY head_time LIMIT p_count
    ), next AS MATERIALIZED (
        SELECT slot.more, slot.shares_places, head.* FROM slot CROSS JOIN LATERAL (
            SELECT tenant_id, user_id, run_id FROM run
            WHERE run.tenant_id = slot.tenant_id AND run.user_id = slot.user_id AND run.state = 'QUEUED'
            ORDER BY create_time, run_id LIMIT 1 FOR UPDATE
        ) AS head
    ), claimed AS (
        UPDATE run SET state = 'RUNNING', epoch = epoch + 1, worker = p_worker, start_time = coalesce(start_time, now()),
               lease_until = now() + make_interval(secs => p_lease_seconds)
        FROM next
        WHERE run.tenant_id = next.tenant_id AND run.user_id = next.user_id AND run.run_id = next.run_id
        RETURNING run.*, next.more, next.shares_places
    ), moved AS (
        UPDATE user_slot SET running = running + 1, queued = queued - 1, head_time = now() FROM claimed
        WHERE user_slot.tenant_id = claimed.tenant_id AND user_slot.user_id = claimed.user_id
    )
    SELECT c.tenant_id, c.user_id, c.run_id, c.thread_id, c.agent, c.epoch, c.input_json, c.grant_bytes,
           coalesce(outbox.event, '') AS queued_event,
           CAST(extract(epoch FROM now() - c.start_time) AS float8) AS elapsed_seconds, c.more, c.shares_places
    FROM claimed AS c LEFT JOIN outbox ON outbox.tenant_id = c.tenant_id AND outbox.user_id = c.user_id
        AND outbox.run_id = c.run_id AND outbox.position = 0;
END $$;
"""


def upgrade() -> None:
    execute_script(op, _CLAIM)
    execute_script(
        op,
        """
        REVOKE ALL ON FUNCTION claim_runs FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION claim_runs TO carrel_execution_runner;
        """,
    )
