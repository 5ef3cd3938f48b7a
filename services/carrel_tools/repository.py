"""The tables of tool-dispatch and every statement on them. It knows no rule: what a row means is the domain's business."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import text

from carrel_chassis.db.engine import Connection, Row
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_tools.domain import Begun, Corpus, Ending, Outcome, Step, ToolCall

OWN = "tenant_id = :tenant_id AND user_id = :user_id"

# The snapshot is one for the whole statement: `found` is the line as it was, whatever the other parts do to it.
# When two calls begin one step at once, one inserts and the other finds neither its own line nor the first's: it asks again.
# The intent of what may run twice need not outlive a power failure of the database: its commit does not wait for the disk.
BEGIN_CALL = text(f"""
    WITH newest AS (
        SELECT coalesce(max(attempt), 0) AS attempt FROM tool_call
        WHERE {OWN} AND run_id = :run_id AND outcome <> 'DENIED'
    ), found AS (
        SELECT tool_call_id, tool, arguments_sha256, outcome, result_json, error_reason, error_message FROM tool_call
        WHERE {OWN} AND run_id = :run_id AND step_id = :step_id AND outcome <> 'DENIED'
    ), taken_over AS (
        UPDATE tool_call SET
            outcome = CASE WHEN :idempotent THEN 'INTENDED' ELSE 'UNKNOWN' END,
            attempt = CASE WHEN :idempotent THEN :attempt ELSE attempt END,
            holder = CASE WHEN :idempotent THEN :holder ELSE holder END,
            finish_time = CASE WHEN :idempotent THEN NULL ELSE now() END
        WHERE {OWN} AND run_id = :run_id AND step_id = :step_id AND outcome = 'INTENDED'
            AND tool = :tool AND arguments_sha256 = :arguments_sha256 AND (SELECT attempt FROM newest) <= :attempt
        RETURNING tool_call_id, outcome
    ), inserted AS (
        INSERT INTO tool_call (tenant_id, user_id, tool_call_id, run_id, step_id, attempt, agent, tool, arguments_sha256,
                               holder, outcome)
        SELECT :tenant_id, :user_id, :tool_call_id, :run_id, :step_id, :attempt, :agent, :tool, :arguments_sha256,
               :holder, 'INTENDED'
        WHERE NOT EXISTS (SELECT FROM found) AND (SELECT attempt FROM newest) <= :attempt
        ON CONFLICT (tenant_id, user_id, run_id, step_id) WHERE outcome <> 'DENIED' DO NOTHING
        RETURNING tool_call_id
    )
    SELECT newest.attempt AS newest_attempt, inserted.tool_call_id AS inserted_id, taken_over.outcome AS taken_over, found.*,
        CASE WHEN :idempotent THEN set_config('synchronous_commit', 'off', true) END AS synchronous_commit
    FROM newest LEFT JOIN found ON true LEFT JOIN taken_over ON true LEFT JOIN inserted ON true
""")

FINISH_CALL = text(f"""
    UPDATE tool_call SET outcome = :outcome, result_json = :result_json, error_reason = :error_reason,
                         error_message = :error_message, finish_time = now()
    WHERE {OWN} AND run_id = :run_id AND step_id = :step_id AND attempt = :attempt AND holder = :holder
        AND outcome IN ('INTENDED', 'UNKNOWN')
    RETURNING tool_call_id
""")

DENY_CALL = text("""
    INSERT INTO tool_call (tenant_id, user_id, tool_call_id, run_id, step_id, attempt, agent, tool, arguments_sha256, holder,
                           outcome, error_reason, error_message, rule, policy_version, finish_time)
    VALUES (:tenant_id, :user_id, :tool_call_id, :run_id, :step_id, :attempt, :agent, :tool, '', '',
            'DENIED', 'TOOL_NOT_FOUND', :error_message, :rule, :policy_version, now())
""")

_CALL = "tool_call_id, run_id, step_id, tool, outcome, error_message, create_time, finish_time"
_BEFORE = """(create_time, tool_call_id) < (CAST(CAST(:create_time AS text) AS timestamptz), :tool_call_id)
    ORDER BY create_time DESC, tool_call_id DESC LIMIT :size"""

LIST_CALLS = text(f"SELECT {_CALL} FROM tool_call WHERE {OWN} AND {_BEFORE}")
LIST_CALLS_OF_RUN = text(f"SELECT {_CALL} FROM tool_call WHERE {OWN} AND run_id = :run_id AND {_BEFORE}")

_CORPUS = "corpus_id, name, media_type, size_bytes, sha256, column_names, create_time"

GET_CORPUS = text(f"SELECT {_CORPUS} FROM corpus WHERE {OWN} AND name = :name")
LIST_CORPORA = text(f"SELECT {_CORPUS} FROM corpus WHERE {OWN} AND name > :name ORDER BY name LIMIT :size")
FIND_CORPUS = text(f"SELECT {_CORPUS} FROM corpus WHERE {OWN} AND lower(name) = lower(:name)")
OTHER_CORPORA = text(f"""
    SELECT count(*) AS corpora, CAST(coalesce(sum(size_bytes), 0) AS bigint) AS bytes FROM corpus WHERE {OWN} AND name <> :name
""")
# Two uploads of one user are counted one after the other; it is released with the transaction.
LOCK_CORPORA = text("SELECT pg_advisory_xact_lock(hashtextextended(:tenant_id || '/' || :user_id, 7))")
STORE_CORPUS = text(f"""
    INSERT INTO corpus (tenant_id, user_id, name, corpus_id, media_type, size_bytes, sha256, column_names)
    VALUES (:tenant_id, :user_id, :name, :corpus_id, :media_type, :size_bytes, :sha256, :column_names)
    ON CONFLICT (tenant_id, user_id, name) DO UPDATE SET
        corpus_id = excluded.corpus_id, media_type = excluded.media_type, size_bytes = excluded.size_bytes,
        sha256 = excluded.sha256, column_names = excluded.column_names, create_time = now()
    RETURNING {_CORPUS}
""")
DELETE_CORPUS = text(f"DELETE FROM corpus WHERE {OWN} AND name = :name RETURNING corpus_id")


def _own(user: UserContext) -> dict[str, Any]:
    return {"tenant_id": user.tenant_id, "user_id": user.user_id}


def _of_step(user: UserContext, step: Step) -> dict[str, Any]:
    return {**_own(user), "run_id": step.run_id, "step_id": step.step_id, "attempt": step.attempt, "tool": step.tool}


async def begin_call(session: Connection, user: UserContext, step: Step, holder: str) -> Begun:
    """Writes the intent of a step, or takes over that of a call that died, or tells what is there. One round trip."""
    values = {
        **_of_step(user, step),
        # Named by its place in the run, as the events of the run name it: a reader can join the two.
        "tool_call_id": f"{step.run_id}.{step.step_id}",
        "agent": user.agent,
        "arguments_sha256": step.arguments_sha256,
        "idempotent": step.idempotent,
        "holder": holder,
    }
    while True:
        row = (await session.execute(BEGIN_CALL, values)).one()
        if row.inserted_id is not None:
            return Begun(row.inserted_id, True, row.newest_attempt)
        if row.tool_call_id is not None or row.newest_attempt > step.attempt:
            return _begun(row)


def _begun(row: Row) -> Begun:
    return Begun(
        tool_call_id=row.tool_call_id or "",
        ours=row.taken_over == "INTENDED",
        newest_attempt=row.newest_attempt,
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
    values = {
        **_of_step(user, step),
        "holder": holder,
        "outcome": ending.outcome.value,
        "result_json": ending.result_json,
        "error_reason": ending.error_reason,
        "error_message": ending.error_message,
    }
    return (await session.execute(FINISH_CALL, values)).one_or_none() is not None


async def deny_call(
    session: Connection, user: UserContext, step: Step, message: str, rule: str, policy_version: str
) -> None:
    """Writes the line of a call that was refused; the step stays free for a later call."""
    values = {
        **_of_step(user, step),
        "tool_call_id": new_id("call"),
        "agent": user.agent,
        "error_message": message,
        "rule": rule,
        "policy_version": policy_version,
    }
    await session.execute(DENY_CALL, values)


async def list_calls(
    session: Connection, user: UserContext, run_id: str, before: tuple[str, str], size: int
) -> list[ToolCall]:
    """The newest lines before (create_time in ISO, tool_call_id); of one run if one is given."""
    values = {**_own(user), "create_time": before[0], "tool_call_id": before[1], "size": size}
    if run_id:
        rows = await session.execute(LIST_CALLS_OF_RUN, {**values, "run_id": run_id})
    else:
        rows = await session.execute(LIST_CALLS, values)
    return [ToolCall(**{**dict(row), "outcome": Outcome(row.outcome)}) for row in rows]


async def get_corpus(session: Connection, user: UserContext, name: str) -> Corpus | None:
    """The corpus of this name."""
    row = (await session.execute(GET_CORPUS, {**_own(user), "name": name})).one_or_none()
    return _corpus(row) if row else None


async def find_corpus(session: Connection, user: UserContext, name: str) -> Corpus | None:
    """The corpus whose name is this one but for case: SQL would not tell two such apart."""
    row = (await session.execute(FIND_CORPUS, {**_own(user), "name": name})).one_or_none()
    return _corpus(row) if row else None


async def list_corpora(session: Connection, user: UserContext, after: str, size: int) -> list[Corpus]:
    """The corpora after this name, by name."""
    rows = await session.execute(LIST_CORPORA, {**_own(user), "name": after, "size": size})
    return [_corpus(row) for row in rows]


async def other_corpora(session: Connection, user: UserContext, name: str) -> tuple[int, int]:
    """How many corpora there are beside the one of this name, and their bytes."""
    row = (await session.execute(OTHER_CORPORA, {**_own(user), "name": name})).one()
    return row.corpora, row.bytes


async def lock_corpora(session: Connection, user: UserContext) -> None:
    """Waits until no other transaction changes the corpora of this user."""
    await session.execute(LOCK_CORPORA, _own(user))


async def store_corpus(session: Connection, user: UserContext, corpus: Corpus) -> Corpus:
    """Writes the corpus, in the place of the one of its name if there is one; returns it with its time."""
    values = {
        **_own(user),
        "name": corpus.name,
        "corpus_id": corpus.corpus_id,
        "media_type": corpus.media_type,
        "size_bytes": corpus.size_bytes,
        "sha256": corpus.sha256,
        "column_names": json.dumps(corpus.columns),
    }
    return _corpus((await session.execute(STORE_CORPUS, values)).one())


async def delete_corpus(session: Connection, user: UserContext, name: str) -> str | None:
    """Deletes the row; returns its corpus_id, None when there was none."""
    row = (await session.execute(DELETE_CORPUS, {**_own(user), "name": name})).one_or_none()
    return row.corpus_id if row else None


def _corpus(row: Row) -> Corpus:
    create_time: datetime = row.create_time
    columns = tuple(json.loads(row.column_names))
    return Corpus(row.corpus_id, row.name, row.media_type, row.size_bytes, row.sha256, columns, create_time)
