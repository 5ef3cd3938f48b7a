"""The tables of tool-dispatch and every statement on them. It knows no rule: what a row means is the domain's business."""

from __future__ import annotations

from typing import Any

from sqlalchemy import TextClause, text

from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_chassis.pages import Page
from carrel_tools.domain import Begun, Ending, Outcome, Repeat, Step, ToolCall

OWN = "tenant_id = :tenant_id AND user_id = :user_id"
IS_STEP = "outcome NOT IN ('DENIED', 'REPEATED')"
"""A line that is a step of its run, and no record of a decision alone; as the indexes say it."""

# The snapshot is one for the whole statement: `found` is the line as it was, whatever the other parts do to it.
# When two calls begin one step at once, one inserts and the other finds neither its own line nor the first's: it asks again. The same
# when two steps come with one consent at once; the second of them will never find a line, and looks for the consent.
# The intent of what may run twice need not outlive a power failure of the database: its commit does not wait for the disk.
_KNOWN = f"""
    newest AS (
        SELECT coalesce(max(attempt), 0) AS attempt FROM tool_call
        WHERE {OWN} AND run_id = :run_id AND {IS_STEP}
    ), found AS (
        SELECT tool_call_id, tool, arguments_sha256, outcome, result_json, error_reason, error_message FROM tool_call
        WHERE {OWN} AND run_id = :run_id AND step_id = :step_id AND {IS_STEP}
    )"""
BEGIN_CALL = text(f"""
    WITH {_KNOWN}, taken_over AS (
        UPDATE tool_call SET
            outcome = CASE WHEN :may_take_over THEN 'INTENDED' ELSE 'UNKNOWN' END,
            attempt = CASE WHEN :may_take_over THEN :attempt ELSE attempt END,
            holder = CASE WHEN :may_take_over THEN :holder ELSE holder END,
            finish_time = CASE WHEN :may_take_over THEN NULL ELSE now() END
        WHERE {OWN} AND run_id = :run_id AND step_id = :step_id AND outcome = 'INTENDED'
            AND tool = :tool AND arguments_sha256 = :arguments_sha256 AND (SELECT attempt FROM newest) <= :attempt
        RETURNING tool_call_id, outcome
    ), inserted AS (
        INSERT INTO tool_call (tenant_id, user_id, tool_call_id, run_id, step_id, attempt, agent, tool, arguments_sha256,
                               holder, outcome, rule, policy_version, approval_id)
        SELECT :tenant_id, :user_id, :tool_call_id, :run_id, :step_id, :attempt, :agent, :tool, :arguments_sha256,
               :holder, 'INTENDED', :rule, :policy_version, :approval_id
        WHERE NOT EXISTS (SELECT FROM found) AND (SELECT attempt FROM newest) <= :attempt
        ON CONFLICT DO NOTHING
        RETURNING tool_call_id
    )
    SELECT newest.attempt AS newest_attempt, inserted.tool_call_id AS inserted_id, taken_over.outcome AS taken_over, found.*,
        CASE WHEN :idempotent THEN set_config('synchronous_commit', 'off', true) END AS synchronous_commit
    FROM newest LEFT JOIN found ON true LEFT JOIN taken_over ON true LEFT JOIN inserted ON true
""")

# A call without an intent, as a whole.
RECORD_CALL = text(f"""
    WITH {_KNOWN}, inserted AS (
        INSERT INTO tool_call (tenant_id, user_id, tool_call_id, run_id, step_id, attempt, agent, tool, arguments_sha256,
                               holder, outcome, rule, policy_version, approval_id,
                               result_json, error_reason, error_message, create_time, finish_time)
        SELECT :tenant_id, :user_id, :tool_call_id, :run_id, :step_id, :attempt, :agent, :tool, :arguments_sha256,
               :holder, :outcome, :rule, :policy_version, :approval_id, :result_json, :error_reason, :error_message,
               now() - CAST(:seconds AS float8) * interval '1 second', now()
        WHERE NOT EXISTS (SELECT FROM found) AND (SELECT attempt FROM newest) <= :attempt
        ON CONFLICT (tenant_id, user_id, run_id, step_id) WHERE {IS_STEP} DO NOTHING
        RETURNING tool_call_id
    )
    SELECT newest.attempt AS newest_attempt, inserted.tool_call_id AS inserted_id, CAST(NULL AS text) AS taken_over, found.*
    FROM newest LEFT JOIN found ON true LEFT JOIN inserted ON true
""")

FINISH_CALL = text(f"""
    UPDATE tool_call SET outcome = :outcome, result_json = :result_json, error_reason = :error_reason,
                         error_message = :error_message, finish_time = now()
    WHERE {OWN} AND run_id = :run_id AND step_id = :step_id AND attempt = :attempt AND holder = :holder
        AND outcome IN ('INTENDED', 'UNKNOWN')
    RETURNING tool_call_id
""")

RECORD_DECISION = text("""
    INSERT INTO tool_call (tenant_id, user_id, tool_call_id, run_id, step_id, attempt, agent, tool, arguments_sha256, holder,
                           outcome, error_reason, error_message, rule, policy_version, approval_id, finish_time)
    VALUES (:tenant_id, :user_id, :tool_call_id, :run_id, :step_id, :attempt, :agent, :tool, :arguments_sha256, '',
            :outcome, :error_reason, :error_message, :rule, :policy_version, :approval_id, now())
""")

FIND_CALL = text(f"""
    SELECT tool, arguments_sha256, outcome, attempt FROM tool_call
    WHERE {OWN} AND run_id = :run_id AND step_id = :step_id AND {IS_STEP}
""")

USED_APPROVAL = text(f"""
    SELECT 1 FROM tool_call WHERE {OWN} AND approval_id = :approval_id AND outcome <> 'DENIED'
        AND (run_id, step_id) <> (:run_id, :step_id) LIMIT 1
""")

_CALL = "tool_call_id, run_id, step_id, tool, outcome, error_reason, error_message, create_time, finish_time"
BEFORE = """(create_time, tool_call_id) < (CAST(:create_time AS timestamptz), :tool_call_id)
    ORDER BY create_time DESC, tool_call_id DESC LIMIT :size"""

LIST_CALLS = text(f"SELECT {_CALL} FROM tool_call WHERE {OWN} AND outcome <> 'REPEATED' AND {BEFORE}")
LIST_CALLS_OF_RUN = text(
    f"SELECT {_CALL} FROM tool_call WHERE {OWN} AND run_id = :run_id AND outcome <> 'REPEATED' AND {BEFORE}"
)

FIND_LINE = text(
    f"SELECT {_CALL} FROM tool_call WHERE {OWN} AND tool_call_id = :tool_call_id AND outcome <> 'REPEATED'"
)


def _own(user: UserContext) -> dict[str, Any]:
    return {"tenant_id": user.tenant_id, "user_id": user.user_id}


def _of_step(user: UserContext, step: Step) -> dict[str, Any]:
    return {**_own(user), "run_id": step.run_id, "step_id": step.step_id, "attempt": step.attempt, "tool": step.tool}


def _of_decision(user: UserContext, step: Step) -> dict[str, Any]:
    return {
        **_of_step(user, step),
        "agent": user.agent,
        "arguments_sha256": step.arguments_sha256,
        "rule": step.rule,
        "policy_version": step.policy_version,
        "approval_id": step.approval_id,
    }


def _of_call(user: UserContext, step: Step, holder: str) -> dict[str, Any]:
    return {**_of_decision(user, step), "tool_call_id": step.tool_call_id, "holder": holder}


def _of_ending(ending: Ending) -> dict[str, Any]:
    return {
        "outcome": ending.outcome.value,
        "result_json": ending.result_json,
        "error_reason": ending.error_reason,
        "error_message": ending.error_message,
    }


async def begin_call(session: Connection, user: UserContext, step: Step, holder: str) -> Begun:
    """Writes the intent of a step, or takes over that of a call that died, or tells what is there. One round trip."""
    values = {
        **_of_call(user, step, holder),
        "may_take_over": step.repeat is not Repeat.AT_MOST_ONCE,
        "idempotent": step.idempotent,
    }
    return await _written(session, BEGIN_CALL, values)


async def record_call(
    session: Connection, user: UserContext, step: Step, holder: str, ending: Ending, seconds: float
) -> Begun:
    """Writes a call that took so long and left no intent before, or tells what is there."""
    values = {**_of_call(user, step, holder), **_of_ending(ending), "seconds": seconds}
    return await _written(session, RECORD_CALL, values)


async def _written(session: Connection, statement: TextClause, values: dict[str, Any]) -> Begun:
    while True:
        row = (await session.execute(statement, values)).one()
        if row.inserted_id is not None:
            return Begun(row.inserted_id, True, row.newest_attempt)
        if row.tool_call_id is not None or row.newest_attempt > values["attempt"]:
            return _begun(row)
        if values["approval_id"] and (await session.execute(USED_APPROVAL, values)).one_or_none() is not None:
            return Begun("", False, row.newest_attempt, consent_used=True)


def _begun(row: Row) -> Begun:
    return Begun(
        tool_call_id=row.tool_call_id or "",
        ours=row.taken_over == "INTENDED",
        newest_attempt=row.newest_attempt,
        taken_over=row.taken_over == "INTENDED",
        tool=row.tool or "",
        arguments_sha256=row.arguments_sha256 or "",
        ending=Ending(
            outcome=Outcome(row.taken_over or row.outcome or "INTENDED"),
            result_json=row.result_json,
            error_reason=row.error_reason or "",
            error_message=row.error_message or "",
        ),
    )


async def finish_call(session: Connection, user: UserContext, step: Step, holder: str, ending: Ending) -> bool:
    """Writes what became of an intent; False when it is no longer this holder's."""
    values = {**_of_step(user, step), **_of_ending(ending), "holder": holder}
    return (await session.execute(FINISH_CALL, values)).one_or_none() is not None


async def record_decision(
    session: Connection, user: UserContext, step: Step, outcome: Outcome, error_reason: str = "", message: str = ""
) -> None:
    """Writes the line of a decision alone, DENIED or REPEATED; the step stays free for a later call."""
    values = {
        **_of_decision(user, step),
        "tool_call_id": new_id("call"),
        "outcome": outcome.value,
        "error_reason": error_reason,
        "error_message": message,
    }
    await session.execute(RECORD_DECISION, values)


async def has_ended(session: Connection, user: UserContext, step: Step) -> bool:
    """Whether the ledger has what this very step came to, so that it can be told without running anything."""
    row = (await session.execute(FIND_CALL, _of_step(user, step))).one_or_none()
    same = row is not None and (row.tool, row.arguments_sha256) == (step.tool, step.arguments_sha256)
    return same and row.outcome != Outcome.INTENDED.value


async def approval_used_elsewhere(session: Connection, user: UserContext, step: Step) -> bool:
    """Whether the consent of the step has served another one."""
    values = {**_of_step(user, step), "approval_id": step.approval_id}
    return (await session.execute(USED_APPROVAL, values)).one_or_none() is not None


def position_of(page: Page) -> dict[str, Any]:
    """The values of BEFORE: so many lines as the page has, and one that tells whether there are more."""
    return {"create_time": page.create_time, "tool_call_id": page.id, "size": page.size + 1}


async def list_calls(session: Connection, user: UserContext, run_id: str, page: Page) -> list[ToolCall]:
    """The lines of a page and one more, if there is one; of one run if one is given."""
    values = {**_own(user), **position_of(page)}
    if run_id:
        rows = await session.execute(LIST_CALLS_OF_RUN, {**values, "run_id": run_id})
    else:
        rows = await session.execute(LIST_CALLS, values)
    return [_tool_call(row) for row in rows]


async def find_line(session: Connection, user: UserContext, tool_call_id: str) -> ToolCall | None:
    """The line of one call, if the ledger has one."""
    row = (await session.execute(FIND_LINE, {**_own(user), "tool_call_id": tool_call_id})).one_or_none()
    return None if row is None else _tool_call(row)


def _tool_call(row: Row) -> ToolCall:
    return ToolCall(**{**dict(row), "outcome": Outcome(row.outcome)})
