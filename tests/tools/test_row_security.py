"""Below the handlers: with the filter of a statement removed, and as anybody, PostgreSQL shows own rows only."""

from __future__ import annotations

from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy import TextClause, text

from carrel_chassis.db.engine import MissingUserContext, user_engine
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.pages import Page
from carrel_tools import audit, corpus_repository, repository
from carrel_tools.domain import Ending, Outcome, Repeat, Step
from tests.tools.conftest import CSV, Desk

MODULES = (repository, corpus_repository, audit)
STATEMENTS = {
    (module, name): value for module in MODULES for name, value in vars(module).items() if isinstance(value, TextClause)
}
WITHOUT_FILTER = {"RECORD_DECISION", "STORE_CORPUS", "LOCK_CORPORA", "ADD_KEY", "ADD_UPLOAD"}
"""These only insert, or read no row."""
ALL = Page.newest_first("tool_calls", 10, "")
OF_A_TENANT = {"LIST_TENANT_DECISIONS"}
"""These are asked by another role, of a tenant's administration."""


def test_every_statement_that_reads_changes_or_deletes_rows_names_the_owner():
    bare = {name for (_, name), each in STATEMENTS.items() if repository.OWN not in each.text}
    assert bare == WITHOUT_FILTER | OF_A_TENANT


async def test_statements_without_their_filter_touch_own_rows_only(desk: Desk, other: Desk, monkeypatch):
    for each in (desk, other):
        await each.upload("sales", CSV)
        each.run_id = "run-of-the-same-name"
        await each.execute("echo", text=each.person.user_id)
    for (module, name), statement in STATEMENTS.items():
        monkeypatch.setattr(module, name, text(statement.text.replace(repository.OWN, "true")))
    engine = user_engine(desk.system.database_url("carrel_tools"), 1)
    ada = desk.person.context
    try:
        async with UserSessions(engine).open(ada, "call-of-a-test") as session:
            calls = await repository.list_calls(session, ada, "", ALL)
            assert len(calls) == 1
            assert len(await repository.list_calls(session, ada, calls[0].run_id, ALL)) == 1
            corpora = await corpus_repository.list_corpora(session, ada, "", 10)
            assert [corpus.name for corpus in corpora] == ["sales"]
            assert await corpus_repository.get_corpus(session, ada, "sales") == corpora[0]
            assert await corpus_repository.find_corpus(session, ada, "SALES") == corpora[0]
            assert await corpus_repository.other_corpora(session, ada, "x", "") == (1, len(CSV))
            step = Step("run-of-the-same-name", "1", 1, "echo", "", Repeat.IDEMPOTENT, "rule", "0")
            assert (await repository.begin_call(session, ada, step, "h")).tool_call_id == calls[0].tool_call_id
            assert not await repository.finish_call(session, ada, step, "h", Ending(Outcome.FAILED))
            assert not await repository.approval_used_elsewhere(session, ada, replace(step, approval_id="of-nobody"))
            assert await corpus_repository.delete_corpus(session, ada, "sales") == corpora[0]
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
