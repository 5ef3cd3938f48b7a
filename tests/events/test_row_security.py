"""Row-level security under the queries: a statement without its filter still finds own rows only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from sqlalchemy import TextClause, text
from sqlalchemy.exc import ProgrammingError

from carrel_chassis.db.binding import user_engine
from carrel_chassis.db.sessions import UserSessions
from carrel_events import repository
from carrel_events.domain import START, Filter, LogRead, NewEvent
from carrel_events.records import admit, to_new_event
from tests.events.desk import thoughts
from tests.support.system import Person, System


@pytest_asyncio.fixture
async def sessions(system: System) -> AsyncIterator[UserSessions]:
    """The database as the service has it."""
    engine = user_engine(system.database_url("carrel_events"), 2)
    yield UserSessions(engine)
    await engine.dispose()


async def append(sessions: UserSessions, person: Person, count: int, as_owner: Person | None = None) -> None:
    writer = replace(person.context, run_id="run-7", thread_id="thread-7", agent="echo", attempt=1)
    events: list[NewEvent] = [to_new_event(event) for event in admit(thoughts(count), writer, time.time()).values()]
    claimed = replace(writer, tenant_id=as_owner.tenant_id, user_id=as_owner.user_id) if as_owner else writer
    async with sessions.open(writer, "call") as connection:
        assert await repository.append_events(connection, claimed, events)


async def read(sessions: UserSessions, person: Person, as_owner: Person) -> LogRead:
    async with sessions.open(person.context, "call") as connection:
        return await repository.read_events(connection, as_owner.context, START, Filter(), 100, 10**6)


def unfiltered(statement: TextClause) -> TextClause:
    assert repository.OWN in statement.text
    return text(statement.text.replace(repository.OWN, "true"))


async def test_the_read_without_its_filter_finds_own_rows_only(
    sessions: UserSessions, ada: Person, eve: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(sessions, ada, 3)
    await append(sessions, eve, 2)
    monkeypatch.setattr(repository, "READ", unfiltered(repository.READ))
    found = await read(sessions, ada, ada)
    assert (found.state.last_offset, [offset for offset, _ in found.rows]) == (3, [1, 2, 3])
    assert all(ada.user_id.encode() in body for _, body in found.rows)


async def test_a_read_in_the_name_of_another_finds_nothing(sessions: UserSessions, ada: Person, eve: Person) -> None:
    await append(sessions, ada, 3)
    assert not (await read(sessions, eve, as_owner=ada)).rows


@pytest.mark.parametrize("known", [True, False])
async def test_an_append_in_the_name_of_another_is_refused_by_the_database(
    sessions: UserSessions, ada: Person, eve: Person, known: bool
) -> None:
    if known:
        await append(sessions, ada, 1)
    with pytest.raises(ProgrammingError, match="row-level security"):
        await append(sessions, eve, 1, as_owner=ada)
    assert len((await read(sessions, ada, ada)).rows) == known


async def test_an_append_that_is_rolled_back_leaves_no_gap(sessions: UserSessions, ada: Person) -> None:
    writer = replace(ada.context, run_id="run-7", agent="echo", attempt=1)
    events = [to_new_event(event) for event in admit(thoughts(2), writer, time.time()).values()]
    with pytest.raises(InterruptedError):
        async with sessions.open(writer, "call") as connection:
            await repository.append_events(connection, writer, events)
            raise InterruptedError
    await append(sessions, ada, 2)
    assert [offset for offset, _ in (await read(sessions, ada, ada)).rows] == [1, 2]


@pytest.mark.parametrize("statement", ["UPDATE event SET body = ''", "DELETE FROM event", "DELETE FROM user_log"])
async def test_the_service_cannot_change_what_is_written(sessions: UserSessions, ada: Person, statement: str) -> None:
    await append(sessions, ada, 1)
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with sessions.open(ada.context, "call") as connection:
            await connection.execute(text(statement))
