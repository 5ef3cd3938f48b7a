"""Below the handlers: with the filter of a statement removed, and as anybody, PostgreSQL shows own rows only."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy import TextClause, text

from carrel_chassis.db.engine import MissingUserContext, user_engine
from carrel_chassis.db.sessions import UserSessions
from carrel_tools import repository
from carrel_tools.domain import Ending, Outcome, Repeat, Step
from tests.tools.conftest import CSV, Desk

STATEMENTS = {name: value for name, value in vars(repository).items() if isinstance(value, TextClause)}
WITHOUT_FILTER = {"RECORD_DECISION", "STORE_CORPUS", "LOCK_CORPORA"}
"""These only insert, or read no row."""


def test_every_statement_that_reads_changes_or_deletes_rows_names_the_owner():
    assert {name for name, each in STATEMENTS.items() if repository.OWN not in each.text} == WITHOUT_FILTER


async def test_statements_without_their_filter_touch_own_rows_only(desk: Desk, other: Desk, monkeypatch):
    for each in (desk, other):
        await each.upload("sales", CSV)
        each.run_id = "run-of-the-same-name"
        await each.execute("echo", text=each.person.user_id)
    for name in STATEMENTS.keys() - WITHOUT_FILTER:
        monkeypatch.setattr(repository, name, text(STATEMENTS[name].text.replace(repository.OWN, "true")))
    engine = user_engine(desk.system.database_url("carrel_tools"), 1)
    ada = desk.person.context
    try:
        async with UserSessions(engine).open(ada, "call-of-a-test") as session:
            calls = await repository.list_calls(session, ada, "", ("infinity", ""), 10)
            assert len(calls) == 1
            assert len(await repository.list_calls(session, ada, calls[0].run_id, ("infinity", ""), 10)) == 1
            assert len(await repository.list_corpora(session, ada, "", 10)) == 1
            assert await repository.get_corpus(session, ada, "sales") == await repository.find_corpus(
                session, ada, "SALES"
            )
            assert await repository.other_corpora(session, ada, "x") == (1, len(CSV))
            step = Step("run-of-the-same-name", "1", 1, "echo", "", Repeat.IDEMPOTENT, "rule", "0")
            assert (await repository.begin_call(session, ada, step, "h")).tool_call_id == calls[0].tool_call_id
            assert not await repository.finish_call(session, ada, step, "h", Ending(Outcome.FAILED))
            assert await repository.delete_corpus(session, ada, "sales") is not None
        with pytest.raises(MissingUserContext):
            async with engine.begin():
                pass
    finally:
        await engine.dispose()
    assert await other.names() == ["sales"]


async def test_the_services_role_sees_and_writes_nothing_of_another_user(desk: Desk, other: Desk):
    await desk.upload("sales", CSV)
    await desk.execute("echo", text="a")
    connection = await asyncpg.connect(desk.system.database_url("carrel_tools", driver="postgresql"))
    try:
        for table in ("corpus", "tool_call"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
            for person in (
                (other.person.tenant_id, desk.person.user_id),
                (desk.person.tenant_id, other.person.user_id),
            ):
                async with connection.transaction():
                    await connection.execute(
                        "SELECT set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)", *person
                    )
                    assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with connection.transaction():
                        await connection.execute(
                            "SELECT set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)", *person
                        )
                        await connection.execute(
                            "INSERT INTO corpus (tenant_id, user_id, name, corpus_id, media_type, size_bytes, sha256, column_names) "
                            "VALUES ($1, $2, 'n', 'c', 'text/csv', 1, '', '[]')",
                            desk.person.tenant_id,
                            desk.person.user_id,
                        )
    finally:
        await connection.close()
