"""Every query of every repository with its filter on the owner removed: row-level security alone still returns only own rows.

Each statement is run twice with the ids of Ada's things and without `WHERE tenant_id = ... AND user_id = ...`: bound to Ada, where it must
find them (so the statement works), and bound to Eve, where none of them may appear.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.sql.elements import TextClause

from carrel import Client
from carrel.api.runs.v1 import schedule_service_pb2_grpc as schedule_rpc
from carrel.api.runs.v1.schedule_service_pb2 import CreateScheduleRequest
from carrel_chassis.db.engine import user_engine
from carrel_chassis.ids import new_id
from tests.execution.conftest import ACCEPT_VALUES
from tests.support.expect import eventually
from tests.support.system import Person, System

REPOSITORIES = {
    "carrel_context": ("carrel_context.repository", "carrel_context.threads", "carrel_context.sessions"),
    "carrel_execution": (
        "carrel_execution.runs.repository",
        "carrel_execution.journal.repository",
        "carrel_execution.schedules.repository",
        "carrel_execution.runs.follow",
        "carrel_execution.runs.statistics",
        "carrel_execution.models.usage",
    ),
    "carrel_tools": (
        "carrel_tools.repository",
        "carrel_tools.corpus_repository",
        "carrel_tools.audit",
        "carrel_tools.cancel_requests",
    ),
    "carrel_events": ("carrel_events.repository",),
}
"""The modules with the queries of a user, by the role that runs them."""


def filtered_statements() -> list[tuple[str, str, str, str]]:
    """Role, name, the statement and the filter in it, of every query that names its owner."""
    found = []
    for role, module in ((role, import_module(name)) for role, names in REPOSITORIES.items() for name in names):
        for name, value in vars(module).items():
            if isinstance(value, TextClause) and module.OWN in value.text:
                found.append((role, name, value.text, module.OWN))
    return found


STATEMENTS = filtered_statements()
FAR = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
PAST = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
ASK = """
    INSERT INTO execution.wait (tenant_id, user_id, wait_id, run_id, thread_id, step_id, kind, agent, prompt, answer_schema_json, tool,
                                arguments_json, arguments_digest, input_digest, create_time, expire_time)
    SELECT tenant_id, user_id, 'wait-of-' || user_id, run_id, thread_id, '1', 'INPUT', agent, 'Which?', '', '', '', '', '', now(),
           now() + interval '1 day'
    FROM execution.run WHERE tenant_id = $1 AND user_id = $2 RETURNING *
"""
"""What a run of the person waits for."""
MODEL_CALL = """
    INSERT INTO execution.journal_step (tenant_id, user_id, run_id, step_id, kind, name, input_digest, state, result_json, error_kind,
                                        error_reason, error_message, epoch, retry, create_time)
    SELECT tenant_id, user_id, run_id, '9', 'MODEL', 'small', '', 'SUCCEEDED',
           json_build_object('model', user_id, 'input_tokens', 7, 'output_tokens', 5, 'cost_usd', 0.5)::text, '', '', '', 1, 0, now()
    FROM execution.run WHERE tenant_id = $1 AND user_id = $2 RETURNING *
"""
"""A call of a model, which is named after the person."""
UPLOAD_ID = "upload-of-both"


async def row_of(system: System, query: str, person: Person) -> asyncpg.Record:
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:
        row = await connection.fetchrow(query, person.tenant_id, person.user_id)
    finally:
        await connection.close()
    assert row is not None, query
    return row


async def things_of(system: System, person: Person) -> dict[str, Any]:
    """Gives a person one of everything, and says what it is called."""
    await system.api_key(person)
    async with Client(system.addresses["gateway"], person.token) as client:
        await client.create_thread("Bills", request_id="request-of-a-thread")
        await client.upload_corpus("trace", b"a\n1\n")
        run = await client.start_run("echo", {"text": "x"}, request_id=new_id("request"))
        async for _ in client.watch_run(run.run_id):
            pass
    await create_schedule(system, person)
    own = "WHERE tenant_id = $1 AND user_id = $2"
    call = await row_of(system, f"SELECT * FROM tools.tool_call {own}", person)
    corpus = await row_of(system, f"SELECT * FROM tools.corpus {own}", person)
    upload = "INSERT INTO tools.corpus_upload (tenant_id, user_id, upload_id, corpus_id, name, media_type)"
    values = f"VALUES ($1, $2, '{UPLOAD_ID}', $2 || '-of-upload', 'trace', 'text/csv') RETURNING 1"
    await row_of(system, f"{upload} {values}", person)
    asked = "INSERT INTO tools.tool_cancel (tenant_id, user_id, cancel_id, tool_call_id)"
    cancel = await row_of(system, f"{asked} VALUES ($1, $2, 'cancel-of-' || $2, '1') RETURNING *", person)
    corpus_key = await row_of(system, f"SELECT * FROM tools.corpus_key {own}", person)
    key = await row_of(system, f"SELECT * FROM context.api_key {own}", person)
    thread = await row_of(system, f"SELECT * FROM context.thread {own}", person)
    session = await row_of(system, f"SELECT * FROM context.session {own}", person)
    accepted = await row_of(system, f"SELECT * FROM execution.run {own}", person)
    schedule = await row_of(system, f"SELECT * FROM execution.schedule {own}", person)
    wait = await row_of(system, ASK, person)
    await row_of(system, MODEL_CALL, person)
    return {
        "schedule": dict(schedule),
        "wait": dict(wait),
        "run": dict(accepted),
        "call": dict(call),
        "corpus": dict(corpus),
        "corpus_key": dict(corpus_key),
        "cancel": dict(cancel),
        "key": dict(key),
        "thread": dict(thread),
    } | {"session": dict(session)}


async def create_schedule(system: System, person: Person) -> None:
    stub: schedule_rpc.ScheduleServiceAsyncStub = schedule_rpc.ScheduleServiceStub(
        system.peer("agent-execution").channel
    )
    request = CreateScheduleRequest(request_id="request-of-a-schedule", cron="0 0 1 1 *", agent="echo", input_json="{}")
    await stub.CreateSchedule(request, metadata=person.metadata, timeout=10)


async def counted_runs(system: System, person: Person) -> int:
    """How many runs of a person are in the statistics by now."""
    query = "SELECT coalesce(sum(runs), 0)::int FROM execution.run_statistic WHERE tenant_id = $1 AND user_id = $2"
    return int((await row_of(system, query, person))[0])


def parameters(name: str, things: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What each statement is asked with, so that it would find Ada's things. A statement that is not named here fails the test."""
    run, call, key, thread = (things[kind] for kind in ("run", "call", "key", "thread"))
    schedule, wait = things["schedule"], things["wait"]
    read = {"after": 0, "count": 100, "max_bytes": 1 << 20, "run_id": "", "thread_id": "", "types": []}
    begin = {
        name: call[name]
        for name in (
            "run_id",
            "step_id",
            "attempt",
            "holder",
            "agent",
            "tool",
            "arguments_sha256",
            "rule",
            "policy_version",
        )
    } | {"tool_call_id": new_id("call"), "approval_id": ""}
    step = {"run_id": call["run_id"], "step_id": call["step_id"], "attempt": call["attempt"], "holder": call["holder"]}
    return {
        "GET_USER": {"session_id": "", "run_id": ""},
        "GET_API_KEY": {"api_key_id": key["api_key_id"], "session_id": "", "run_id": ""},
        "LIVE_GRANTS": {},
        "GET_SESSION": {"session_id": things["session"]["session_id"]},
        "LIST_SESSIONS": {"create_time": FAR, "session_id": "", "count": 10},
        "ADD_THREAD": {"thread_id": new_id("thread"), "title": "x", "request_id": new_id("request"), "most": 10},
        "GET_THREAD_OF_REQUEST": {"request_id": "request-of-a-thread"},
        "GET_THREAD": {"thread_id": thread["thread_id"]},
        "LIST_THREADS": {"create_time": FAR, "thread_id": "", "count": 10},
        "RENAME_THREAD": {"thread_id": thread["thread_id"], "title": "x"},
        "DELETE_THREAD": {"thread_id": thread["thread_id"]},
        "ACCEPT": {
            name: run[name]
            for name in ("agent", "grant_bytes", "input_json", "request_digest", "request_id", "run_id", "thread_id")
        }
        | ACCEPT_VALUES
        | {"event": b""},
        "GET": {"run_id": run["run_id"]},
        "CANCEL": {"run_id": run["run_id"], "reason": "x"},
        "LIST": {"create_time": FAR, "page_size": 50, "run_id": "", "states": [], "thread_id": ""},
        "ADD_SCHEDULE": {name: schedule[name] for name in schedule if name not in ("tenant_id", "user_id")}
        | {"schedule_id": new_id("schedule"), "request_id": new_id("request"), "most": 10},
        "LIST_STEPS": {"run_id": run["run_id"], "create_time": PAST, "step_id": "", "page_size": 50},
        "USAGE_OF_RUN": {"run_id": run["run_id"]},
        "USAGE_OF_USER": {"day": PAST.date()},
        "LIST_WAITS": {"run_id": "", "states": ["PENDING"], "create_time": PAST, "wait_id": "", "page_size": 50},
        "GET_WAIT": {"wait_id": wait["wait_id"]},
        "RESOLVE_WAIT": {"wait_id": wait["wait_id"], "state": "RESOLVED", "answer_json": "7", "event": b"x"},
        "GET_SCHEDULE_OF_REQUEST": {"request_id": "request-of-a-schedule"},
        "GET_SCHEDULE": {"schedule_id": schedule["schedule_id"]},
        "LIST_SCHEDULES": {"create_time": FAR, "schedule_id": "", "count": 10},
        "PAUSE_SCHEDULE": {"schedule_id": schedule["schedule_id"]},
        "RESUME_SCHEDULE": {
            "schedule_id": schedule["schedule_id"],
            "next_time": FAR,
            "check_time": FAR,
            "grant_bytes": b"",
        },
        "DELETE_SCHEDULE": {"schedule_id": schedule["schedule_id"]},
        "SCHEDULE_WENT_ON": {"schedule_id": schedule["schedule_id"], "due_time": schedule["next_time"]}
        | {"next_time": FAR, "check_time": FAR, "last_run_id": None, "last_error": "x"},
        "FOLLOW": {"run_id": run["run_id"], "seconds": 10.0},
        "STATISTICS_OF_USER": {"day": dt.date(2020, 1, 1)},
        "BEGIN_CALL": begin | {"idempotent": True, "may_take_over": True},
        "RECORD_CALL": begin
        | {"outcome": "FAILED", "result_json": None, "error_reason": "X", "error_message": "x", "seconds": 1.0},
        "FINISH_CALL": step | {"outcome": "FAILED", "result_json": None, "error_reason": "X", "error_message": "x"},
        "FIND_CALL": {"run_id": call["run_id"], "step_id": call["step_id"]},
        "FIND_LINE": {"tool_call_id": call["tool_call_id"]},
        "ADD_CANCEL": {"tool_call_id": call["tool_call_id"], "cancel_id": new_id("cancel")},
        "REMOVE_CANCEL": {"cancel_id": things["cancel"]["cancel_id"]},
        "USED_APPROVAL": {"run_id": call["run_id"], "step_id": "another", "approval_id": call["approval_id"]},
        "LIST_DECISIONS": {"create_time": FAR, "tool_call_id": "", "size": 50},
        "LIST_CALLS": {"create_time": FAR, "tool_call_id": "", "size": 50},
        "LIST_CALLS_OF_RUN": {"create_time": FAR, "tool_call_id": "", "size": 50, "run_id": call["run_id"]},
        "GET_CORPUS": {"name": "trace"},
        "LIST_CORPORA": {"name": "", "size": 50},
        "FIND_CORPUS": {"name": "trace"},
        "OTHER_CORPORA": {"name": "another", "upload_id": ""},
        "RENAME_CORPUS": {"name": "trace", "new_name": "another"},
        "DELETE_CORPUS": {"name": "trace"},
        "DELETE_CORPORA": {},
        "GET_KEY": {},
        "DELETE_KEY": {},
        "GET_UPLOAD": {"upload_id": UPLOAD_ID},
        "ADVANCE_UPLOAD": {"upload_id": UPLOAD_ID, "received_bytes": 0, "new_bytes": 1},
        "DELETE_UPLOAD": {"upload_id": UPLOAD_ID},
        "DELETE_UPLOADS": {},
        "STALE_UPLOADS": {"upload_id": "", "most": 0},
        "READ": read,
        "READ_OF_RUN": read | {"run_id": run["run_id"]},
    }[name]


async def answer(
    system: System, role: str, statement: str, who: Person, values: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """The rows of a statement as a service would get them; nothing it changes is kept."""
    engine = user_engine(system.database_url(role), pool_size=1)
    owner = {"tenant_id": who.tenant_id, "user_id": who.user_id}
    try:
        async with engine.begin(who.context) as connection:
            rows = await connection.execute(text(statement), {**owner, **values})
            raise Undone(rows)
    except Undone as undone:
        return [tuple(row) for row in undone.rows]
    finally:
        await engine.dispose()


class Undone(Exception):
    """Rolls a transaction back, and carries out what it has seen."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows


@pytest.mark.parametrize(("role", "name", "statement", "own"), STATEMENTS, ids=[f"{s[0]}-{s[1]}" for s in STATEMENTS])
async def test_a_query_without_its_filter_returns_own_rows_only(
    system: System, ada: Person, eve: Person, role: str, name: str, statement: str, own: str
) -> None:
    adas, eves = await things_of(system, ada), await things_of(system, eve)
    bare = statement.replace(own, "TRUE")
    assert own not in bare and bare != statement
    values = parameters(name, adas)
    if name == "FINISH_CALL":  # it ends only what is under way
        under_way = "UPDATE tools.tool_call SET outcome = 'INTENDED' WHERE tenant_id = $1 AND user_id = $2 RETURNING 1"
        await row_of(system, under_way, ada)
    if name == "LIVE_GRANTS":  # it finds what is not over
        live = "UPDATE execution.run SET state = 'WAITING', wait_time = now(), finish_time = NULL"
        await row_of(system, f"{live} WHERE tenant_id = $1 AND user_id = $2 RETURNING 1", ada)
    if name == "RESUME_SCHEDULE":  # it finds what is paused
        paused = "UPDATE execution.schedule SET paused = true, next_time = NULL WHERE tenant_id = $1 AND user_id = $2"
        await row_of(system, f"{paused} RETURNING 1", ada)
    if name == "STATISTICS_OF_USER":
        for person in (ada, eve):
            await eventually(lambda person=person: counted_runs(system, person))  # type: ignore[misc]
    as_ada = await answer(system, role, bare, ada, values)
    assert as_ada, "bound to its owner the statement must find what it is asked for"
    as_eve = await answer(system, role, bare, eve, values)
    foreign = [
        ada.tenant_id,
        ada.user_id,
        adas["corpus"]["corpus_id"],
        adas["corpus_key"]["wrapped_key"],
        adas["call"]["tool_call_id"],
        adas["key"]["api_key_id"],
        adas["thread"]["thread_id"],
        adas["schedule"]["schedule_id"],
        adas["wait"]["wait_id"],
    ]
    if name not in {
        "ACCEPT",
        "BEGIN_CALL",
        "RECORD_CALL",
    }:  # these create what is not there, under the id that they are given
        foreign.append(adas["run"]["run_id"])
    for row in as_eve:
        for value in row:
            seen = value if isinstance(value, bytes) else str(value).encode()
            assert not [word for word in foreign if word.encode() in seen], f"{name} showed Eve a row of Ada: {row}"
    if name == "STATISTICS_OF_USER":
        assert sum(row[3] for row in as_eve) == 1, "Eve has one run of her own"
    if name in {"GET_SCHEDULE", "PAUSE_SCHEDULE", "RESUME_SCHEDULE", "DELETE_SCHEDULE", "SCHEDULE_WENT_ON", "FOLLOW"}:
        assert as_eve == []
    if name in {"FIND_LINE", "REMOVE_CANCEL"}:
        assert as_eve == []
    if name in {"LIST_STEPS", "GET_WAIT", "RESOLVE_WAIT", "USAGE_OF_RUN"}:
        assert as_eve == []
    if name == "USAGE_OF_USER":
        assert [row[:3] for row in as_eve] == [(eve.user_id, 1, 7)]
    if name == "OTHER_CORPORA":
        assert as_eve[0] == (1, eves["corpus"]["size_bytes"]), "the sum is over Eve's own files"
    if name in {"DELETE_CORPUS", "RENAME_CORPUS", "GET_CORPUS", "FIND_CORPUS"}:  # Eve has a file of that name herself
        assert len(as_eve) == 1
    if name in {"GET", "CANCEL", "FINISH_CALL", "LIST_CALLS_OF_RUN", "GET_API_KEY", "GET_THREAD", "DELETE_THREAD"}:
        assert as_eve == []
