"""The statements of one user's calls on journals and waits. Each says whose rows it means; row security says it again below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from carrel.replay import WaitKind, WaitState
from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext
from carrel_chassis.pages import Page

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

_PAGE_BYTES = 2 * 1024 * 1024
"""How much the results of a page may hold together: the page becomes shorter instead of larger than a message."""
_WAIT = """wait_id, run_id, thread_id, step_id, kind, state, agent, prompt, answer_schema_json, tool, arguments_json, arguments_digest,
    answer_json, create_time, expire_time, resolve_time"""

LIST_STEPS = text(f"""
    WITH page AS (
        SELECT *, row_number() OVER oldest AS place, sum(octet_length(result_json)) OVER oldest AS bytes FROM (
            SELECT * FROM (
                SELECT step_id, kind, name, state, epoch, result_json, error_reason, error_message, create_time, finish_time
                FROM journal_step WHERE {OWN} AND run_id = :run_id
                UNION ALL
                SELECT step_id, 'WAIT', CASE kind WHEN 'APPROVAL' THEN tool ELSE 'input' END,
                       CASE state WHEN 'PENDING' THEN 'INTENDED' WHEN 'RESOLVED' THEN 'SUCCEEDED' ELSE 'FAILED' END,
                       0, answer_json,
                       CASE state WHEN 'DENIED' THEN 'APPROVAL_DENIED' WHEN 'EXPIRED' THEN 'WAIT_EXPIRED'
                           WHEN 'CANCELLED' THEN 'CANCELLED' ELSE '' END,
                       '', create_time, resolve_time
                FROM wait WHERE {OWN} AND run_id = :run_id
            ) AS step
            WHERE (create_time, step_id) > (:create_time, :step_id) ORDER BY create_time, step_id LIMIT :page_size + 1
        ) AS found
        WINDOW oldest AS (ORDER BY create_time, step_id)
    )
    SELECT *, (SELECT count(*) FROM page) AS all_found FROM page
    WHERE place <= :page_size AND (place = 1 OR bytes <= {_PAGE_BYTES}) ORDER BY place
""")
LIST_WAITS = text(f"""
    WITH page AS (
        SELECT *, row_number() OVER oldest AS place, sum(octet_length(arguments_json) + octet_length(answer_json)) OVER oldest AS bytes
        FROM (
            SELECT {_WAIT} FROM wait
            WHERE {OWN} AND (create_time, wait_id) > (:create_time, :wait_id) AND state = ANY(CAST(:states AS text[]))
                AND (:run_id = '' OR run_id = :run_id)
            ORDER BY create_time, wait_id LIMIT :page_size + 1
        ) AS found
        WINDOW oldest AS (ORDER BY create_time, wait_id)
    )
    SELECT {_WAIT}, (SELECT count(*) FROM page) AS all_found FROM page
    WHERE place <= :page_size AND (place = 1 OR bytes <= {_PAGE_BYTES}) ORDER BY place
""")
GET_WAIT = text(f"SELECT {_WAIT} FROM wait WHERE {OWN} AND wait_id = :wait_id")
RESOLVE_WAIT = text(f"""
    SELECT {_WAIT} FROM resolve_wait(:tenant_id, :user_id, :wait_id, :state, :answer_json, :event) WHERE {OWN}
""")


@dataclass(frozen=True, slots=True)
class Step:
    """A line of a run's journal, as its user sees it; a wait is one too."""

    step_id: str
    kind: str
    name: str
    state: str
    epoch: int
    result_json: str
    error_reason: str
    error_message: str
    create_time: datetime
    finish_time: datetime | None


@dataclass(frozen=True, slots=True)
class Wait:
    """What a run waits for, as its user sees it."""

    wait_id: str
    run_id: str
    thread_id: str
    step_id: str
    kind: WaitKind
    state: WaitState
    agent: str
    prompt: str
    answer_schema_json: str
    tool: str
    arguments_json: str
    arguments_digest: str
    answer_json: str
    create_time: datetime
    expire_time: datetime
    resolve_time: datetime | None


class Journals:
    """The journals and waits that one transaction sees: those of its user."""

    def __init__(self, connection: Connection, user: UserContext) -> None:
        self._connection = connection
        self._owner = {"tenant_id": user.tenant_id, "user_id": user.user_id}

    async def list_steps(self, run_id: str, page: Page) -> tuple[list[Step], bool]:
        """A page of a run's steps, oldest first, and whether there are more."""
        values = {
            **self._owner,
            "run_id": run_id,
            "create_time": page.create_time,
            "step_id": page.id,
            "page_size": page.size,
        }
        rows = (await self._connection.execute(LIST_STEPS, values)).all()
        return [Step(*row[:10]) for row in rows], bool(rows) and rows[0].all_found > len(rows)

    async def list_waits(self, run_id: str, states: Sequence[WaitState], page: Page) -> tuple[list[Wait], bool]:
        """A page of waits, oldest first, and whether there are more; of all runs where `run_id` is empty."""
        values = {
            **self._owner,
            "run_id": run_id,
            "states": [str(state) for state in states],
            "create_time": page.create_time,
            "wait_id": page.id,
            "page_size": page.size,
        }
        rows = (await self._connection.execute(LIST_WAITS, values)).all()
        return [_wait(row) for row in rows], bool(rows) and rows[0].all_found > len(rows)

    async def get_wait(self, wait_id: str) -> Wait | None:
        """The wait, or None when this user has none of this id."""
        row = (await self._connection.execute(GET_WAIT, {**self._owner, "wait_id": wait_id})).one_or_none()
        return _wait(row) if row else None

    async def resolve_wait(self, wait_id: str, state: WaitState, answer_json: str, event: bytes) -> Wait:
        """Gives a wait its answer if it is still PENDING, and has its run go on; returns it as it is then."""
        values = {
            **self._owner,
            "wait_id": wait_id,
            "state": str(state),
            "answer_json": answer_json,
            "event": event,
        }
        return _wait((await self._connection.execute(RESOLVE_WAIT, values)).one())


def _wait(row: Row) -> Wait:
    values: list[Any] = list(row[:16])
    values[4], values[5] = WaitKind(values[4]), WaitState(values[5])
    return Wait(*values)
