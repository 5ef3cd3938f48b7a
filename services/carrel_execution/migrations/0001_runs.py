"""Tables: the runs, how many of each user wait and work, and the events that are not in the user's log yet."""

from __future__ import annotations

from alembic import op

from carrel_chassis.db.migrate import execute_script
from carrel_chassis.db.row_security import across_users, own_rows

revision = "0001"
down_revision = None

_TABLES = """
CREATE TABLE run (
    tenant_id        text        NOT NULL,
    user_id          text        NOT NULL,
    run_id           text        NOT NULL,
    thread_id        text        NOT NULL,
    agent            text        NOT NULL,
    state            text        NOT NULL DEFAULT 'QUEUED' CHECK (state IN (
        'QUEUED', 'RUNNING', 'WAITING', 'CANCELLING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'TIMED_OUT', 'DEAD')),
    -- The attempt: raised by each claim; what an older attempt writes is refused.
    epoch            integer     NOT NULL DEFAULT 0,
    -- How often a worker was lost with it. A worker that gives it back in good order does not count.
    lost_leases      integer     NOT NULL DEFAULT 0,
    request_id       text        NOT NULL,
    request_digest   bytea       NOT NULL,
    input_json       text        NOT NULL,
    result_json      text,
    error_reason     text,
    error_message    text,
    -- The signed context that the run was started under, as it came.
    grant_bytes      bytea       NOT NULL,
    worker           text,
    lease_until      timestamptz,
    cancel_requested boolean     NOT NULL DEFAULT false,
    cancel_reason    text        NOT NULL DEFAULT '',
    create_time      timestamptz NOT NULL,
    start_time       timestamptz,
    finish_time      timestamptz,
    PRIMARY KEY (tenant_id, user_id, run_id),
    UNIQUE (tenant_id, user_id, request_id),
    CONSTRAINT held_by_a_worker_with_a_lease CHECK (
        (state IN ('RUNNING', 'CANCELLING')) = (worker IS NOT NULL AND lease_until IS NOT NULL)),
    CONSTRAINT finished_when_final CHECK (
        (state IN ('SUCCEEDED', 'FAILED', 'CANCELLED', 'TIMED_OUT', 'DEAD')) = (finish_time IS NOT NULL))
);
CREATE INDEX run_by_time ON run (tenant_id, user_id, create_time DESC, run_id DESC);
CREATE INDEX run_queue ON run (tenant_id, user_id, create_time, run_id) WHERE state = 'QUEUED';
-- Small: what is being worked on now. lease_until is in no index, so that a renewal touches none.
CREATE INDEX run_held ON run (tenant_id, user_id, run_id) WHERE state IN ('RUNNING', 'CANCELLING');

CREATE TABLE user_slot (
    tenant_id     text        NOT NULL,
    user_id       text        NOT NULL,
    running       integer     NOT NULL DEFAULT 0 CHECK (running >= 0),
    queued        integer     NOT NULL DEFAULT 0 CHECK (queued >= 0),
    -- 0: the service's own limit holds.
    running_limit integer     NOT NULL DEFAULT 0,
    -- Since when the user waits for a turn; a turn taken sends the user to the end of the line.
    head_time     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
) WITH (fillfactor = 50);
-- The line of those who wait, across users: this and outbox_line do not begin with the owner; only the runner reads by them.
CREATE INDEX user_slot_line ON user_slot (head_time) WHERE queued > 0;

CREATE TABLE outbox (
    tenant_id   text        NOT NULL,
    user_id     text        NOT NULL,
    run_id      text        NOT NULL,
    -- 0 is `run_queued`; from 1 on what the end of the run left to be sent, the final event last.
    position    bigint      NOT NULL,
    -- A serialized carrel.api.events.v1.Event.
    event       bytea       NOT NULL,
    create_time timestamptz NOT NULL,
    -- From then on the relay sends it, whoever should have.
    due_time    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id, run_id, position)
);
CREATE INDEX outbox_line ON outbox (due_time);
"""

_ROLE, _RUNNER = "carrel_execution", "carrel_execution_runner"


def upgrade() -> None:
    execute_script(op, _TABLES)
    for table, own, across in (
        ("run", "SELECT, INSERT, UPDATE", "SELECT, UPDATE"),
        ("user_slot", "SELECT, INSERT, UPDATE", "SELECT, UPDATE"),
        ("outbox", "SELECT, INSERT", "SELECT, INSERT, UPDATE, DELETE"),
    ):
        execute_script(op, own_rows(table, _ROLE, own) + across_users(table, _RUNNER, across))
