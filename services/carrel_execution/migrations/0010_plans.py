"""Ways through the tables that do not depend on what PostgreSQL knows of them when it plans.

A cancel finds its run by its key alone. `AND NOT own_thread` beside the key let a database of which nothing is known yet take the index
of the threads' runs, which is smaller than the key's, and read all of them. The first run of a line is the first in the index of that
line: to read all runs of the user by the key and sort them looked as good where few were known.
"""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script

revision = "0010"
down_revision = "0009"

_CANCEL = """
-- The run as it is after the request to stop, and the state that it was in; both NULL when the user has no such run.
CREATE OR REPLACE FUNCTION cancel_run(
    p_tenant_id text, p_user_id text, p_run_id text, p_reason text, OUT cancelled run, OUT earlier text
) LANGUAGE plpgsql AS $$
DECLARE
    shared_thread text;
BEGIN
    PERFORM FROM user_slot WHERE tenant_id = p_tenant_id AND user_id = p_user_id FOR UPDATE;
    SELECT state, CASE WHEN NOT own_thread THEN thread_id END INTO earlier, shared_thread FROM run
        WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id FOR UPDATE;
    IF end_unheld(p_tenant_id, p_user_id, p_run_id, 'CANCELLED', 'CANCELLED', p_reason) THEN
        IF shared_thread IS NOT NULL THEN
            PERFORM advance_thread(p_tenant_id, p_user_id, shared_thread);
        END IF;
    ELSIF earlier = 'RUNNING' THEN
        UPDATE run SET state = 'CANCELLING', cancel_requested = true, cancel_reason = p_reason
            WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id;
    END IF;
    SELECT * INTO cancelled FROM run WHERE tenant_id = p_tenant_id AND user_id = p_user_id AND run_id = p_run_id;
END $$;
"""

_IN_ORDER = """
ALTER FUNCTION claim_runs SET enable_sort = off;
ALTER FUNCTION head_of_thread SET enable_sort = off;
"""


def upgrade() -> None:
    execute_script(op, _CANCEL + _IN_ORDER)
