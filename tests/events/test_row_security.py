"""Row-level security under the queries: a statement without its filter still finds own rows only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from carrel_chassis.db.engine import user_engine
from carrel_chassis.db.sessions import UserSessions
from carrel_events import repository
from carrel_events.domain import START, Append, Filter, LogRead
from carrel_events.line import Line
from carrel_events.records import admit, to_new_event
from carrel_events.writer import LogWriter
from tests.events.desk import thoughts
from tests.support.system import Person, System


@pytest_asyncio.fixture
async def sessions(system: System) -> AsyncIterator[UserSessions]:
    """The database as the service has it."""
    engine = user_engine(system.database_url("carrel_events"), 2)
    yield UserSessions(engine)
    await engine.dispose()


@pytest_asyncio.fixture
async def writer(system: System) -> AsyncIterator[LogWriter]:
    """The one that writes for all users, as the service has it."""
    line = Line(system.database_url("carrel_events_writer"))
    yield LogWriter(line, line)
    await line.close()


def batch(person: Person, count: int, **changes: Any) -> Append:
    user = replace(
        person.context, **{"run_id": "run-7", "thread_id": "thread-7", "agent": "echo", "attempt": 1, **changes}
    )
    return Append(user, tuple(map(to_new_event, admit(thoughts(count), user, time.time()).values())))


async def read(sessions: UserSessions, person: Person, as_owner: Person) -> LogRead:
    async with sessions.open(person.context, "call") as connection:
        return await repository.read_events(connection, as_owner.context, START, Filter(), 100, 10**6)


async def test_the_read_without_its_filter_finds_own_rows_only(
    sessions: UserSessions, writer: LogWriter, ada: Person, eve: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await writer.append([batch(ada, 3), batch(eve, 2)])
    monkeypatch.setattr(repository, "READ", text(repository.READ.text.replace(repository.OWN, "true")))
    found = await read(sessions, ada, ada)
    assert (found.state.last_offset, [offset for offset, _ in found.rows]) == (3, [1, 2, 3])
    assert all(ada.user_id.encode() in body for _, body in found.rows)


async def test_a_read_in_the_name_of_another_finds_nothing(
    sessions: UserSessions, writer: LogWriter, ada: Person, eve: Person
) -> None:
    await writer.append([batch(ada, 3)])
    assert not (await read(sessions, eve, as_owner=ada)).rows


STATEMENTS = {
    "the service": [
        "UPDATE event SET body = ''",
        "DELETE FROM event",
        "DELETE FROM user_log",
        "INSERT INTO event DEFAULT VALUES",
    ],
    "the writer": [
        "SELECT body FROM event",
        "SELECT * FROM event",
        "UPDATE event SET body = ''",
        "DELETE FROM user_log",
    ],
    "retention": [
        "UPDATE event SET body = ''",
        "TRUNCATE event_0",
        "DROP TABLE event_0",
        "INSERT INTO user_log DEFAULT VALUES",
    ],
}
ROLES = {"the service": "carrel_events", "the writer": "carrel_events_writer", "retention": "carrel_events_retention"}


@pytest.mark.parametrize(
    ("who", "statement"), [(who, statement) for who, several in STATEMENTS.items() for statement in several]
)
async def test_no_role_can_do_what_is_another_ones(system: System, who: str, statement: str) -> None:
    connection = await asyncpg.connect(system.database_url(ROLES[who], driver="postgresql"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_segment_that_is_written_to_cannot_be_emptied(system: System) -> None:
    connection = await asyncpg.connect(system.database_url("carrel_events_retention", driver="postgresql"))
    try:
        current = await connection.fetchval(
            "SELECT number FROM segment WHERE begin_time IS NOT NULL AND end_time IS NULL"
        )
        with pytest.raises(asyncpg.RaiseError, match="has not ended"):
            await connection.execute("SELECT empty_segment($1)", current)
    finally:
        await connection.close()
