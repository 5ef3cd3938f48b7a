"""Retention: what ended long ago goes, with all that is its own, and nothing else does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from carrel_chassis.db.engine import Engine, cross_user_engine
from carrel_execution.runs.retention import Retention
from tests.execution.test_runs import SUCCEEDED, Runs
from tests.support.expect import eventually
from tests.support.system import Person, System

OWNED = ("run", "journal_step", "wait", "outbox", "thread_state")


class Attic:
    """The tables of agent-execution, as nobody but a test can reach them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def age(self, run_id: str, days: float) -> None:
        """Lets a run have ended so long ago, and gives it one of everything that may belong to a run."""
        await self.age_only(run_id, days)
        await self.connection.execute(
            """INSERT INTO execution.journal_step (tenant_id, user_id, run_id, step_id, kind, name, input_digest, state, result_json,
                   error_kind, error_reason, error_message, epoch, retry, create_time, finish_time)
               SELECT tenant_id, user_id, run_id, 'step-1', 'LOCAL', 'x', '', 'SUCCEEDED', '1', '', '', '', 1, 0, now(), now()
               FROM execution.run WHERE run_id = $1""",
            run_id,
        )
        await self.connection.execute(
            """INSERT INTO execution.wait (tenant_id, user_id, wait_id, run_id, thread_id, step_id, kind, state, agent, prompt,
                   answer_schema_json, tool, arguments_json, arguments_digest, input_digest, create_time, expire_time, resolve_time)
               SELECT tenant_id, user_id, 'wait-' || run_id, run_id, thread_id, 'step-2', 'INPUT', 'RESOLVED', agent, '', '', '', '', '',
                   '', now(), now(), now() FROM execution.run WHERE run_id = $1""",
            run_id,
        )
        await self.connection.execute(
            """INSERT INTO execution.outbox SELECT tenant_id, user_id, run_id, 999, '', now(), now() + interval '1 day'
               FROM execution.run WHERE run_id = $1""",
            run_id,
        )
        await self.connection.execute(
            """INSERT INTO execution.thread_state (tenant_id, user_id, thread_id, state_json, run_id, update_time)
               SELECT tenant_id, user_id, thread_id, '{}', run_id, finish_time FROM execution.run WHERE run_id = $1
               ON CONFLICT (tenant_id, user_id, thread_id) DO NOTHING""",
            run_id,
        )

    async def age_only(self, run_id: str, days: float) -> None:
        """Lets a run have ended so long ago, and what it left in its thread be as old."""
        for table, column in (("run", "finish_time"), ("thread_state", "update_time")):
            await self.connection.execute(
                f"UPDATE execution.{table} SET {column} = now() - make_interval(secs => $2::float8 * 86400) WHERE run_id = $1",
                run_id,
                days,
            )

    async def left(self, run_id: str) -> set[str]:
        """The tables that still have something of the run."""
        return {
            table
            for table in OWNED
            if await self.connection.fetchval(f"SELECT count(*) FROM execution.{table} WHERE run_id = $1", run_id)
        }


@pytest_asyncio.fixture
async def attic(system: System) -> AsyncIterator[Attic]:
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    yield Attic(connection)
    await connection.close()


@pytest_asyncio.fixture
async def engine(system: System) -> AsyncIterator[Engine]:
    engine = cross_user_engine(system.database_url("carrel_execution_retention"), 1)
    yield engine
    await engine.dispose()


def retention(engine: Engine, keep_runs_days: float = 90.0) -> Retention:
    return Retention(engine, keep_runs_days=keep_runs_days, clock=time.time)


async def ended(system: System, person: Person, thread_id: str = "", request_id: str = "") -> str:
    """A run that is over."""
    runs = Runs(system, person)
    run = await runs.start("counting", {"calls": 1}, thread_id=thread_id, request_id=request_id)
    await runs.story(run.run_id)
    return run.run_id


async def swept(engine: Engine, attic: Attic, run_id: str) -> set[str]:
    """What is left of a run after retention; the service's own may be at work in this moment."""

    async def gone() -> bool:
        await retention(engine).once()
        return "run" not in await attic.left(run_id)

    assert await eventually(gone)
    return await attic.left(run_id)


async def test_what_ended_long_ago_goes_with_all_that_is_its_own(
    system: System, ada: Person, attic: Attic, engine: Engine
) -> None:
    old, young = await ended(system, ada), await ended(system, ada)
    await attic.age(old, 91)
    await attic.age(young, 89)
    assert await attic.left(old) == set(OWNED)
    assert await swept(engine, attic, old) == set()
    assert await attic.left(young) == set(OWNED)
    runs = Runs(system, ada)
    assert [run.run_id for run in (await runs.list()).runs] == [young]


async def test_a_run_that_is_not_over_stays_however_old_it_is(
    system: System, ada: Person, attic: Attic, engine: Engine
) -> None:
    runs = Runs(system, ada)
    living = [(await runs.start("sleeper", {"seconds": 60}, thread_id="thread-1")).run_id for _ in range(2)]
    await attic.connection.execute(
        "UPDATE execution.run SET create_time = now() - interval '200 days' WHERE run_id = ANY($1)", living
    )
    old = await ended(system, ada)
    await attic.age(old, 91)
    await swept(engine, attic, old)
    for run_id in living:
        assert "run" in await attic.left(run_id)
        await runs.cancel(run_id)


async def test_the_state_of_a_thread_goes_with_its_last_run(
    system: System, ada: Person, attic: Attic, engine: Engine
) -> None:
    first, last = [await ended(system, ada, "thread-7") for _ in range(2)]
    await attic.age(first, 100)
    await attic.age(last, 50)
    assert await swept(engine, attic, first) == {"thread_state"}  # the thread goes on, and so does what was left in it
    await attic.age_only(last, 100)
    await swept(engine, attic, last)
    assert await attic.left(first) == set()


async def test_a_state_that_was_written_anew_is_not_that_of_the_old_run(
    system: System, ada: Person, attic: Attic, engine: Engine
) -> None:
    old = await ended(system, ada, "thread-8")
    await attic.age(old, 100)
    await attic.connection.execute("UPDATE execution.thread_state SET update_time = now() WHERE run_id = $1", old)
    assert await swept(engine, attic, old) == {"thread_state"}


async def test_of_a_deleted_run_the_request_is_free_again(
    system: System, ada: Person, attic: Attic, engine: Engine
) -> None:
    old = await ended(system, ada, request_id="request-1")
    assert await ended(system, ada, request_id="request-1") == old
    await attic.age(old, 91)
    await swept(engine, attic, old)
    assert await ended(system, ada, request_id="request-1") != old


async def test_more_runs_than_a_batch_go_in_batches(system: System, ada: Person, attic: Attic, engine: Engine) -> None:
    run_id = await ended(system, ada)
    await attic.connection.execute(
        """INSERT INTO execution.run (tenant_id, user_id, run_id, thread_id, agent, state, request_id, request_digest, input_json,
               grant_bytes, create_time, finish_time)
           SELECT tenant_id, user_id, 'run-old-' || n, thread_id, agent, 'DEAD', 'request-old-' || n, request_digest, input_json,
               grant_bytes, create_time, now() - interval '91 days' FROM execution.run, generate_series(1, 1200) AS n WHERE run_id = $1""",
        run_id,
    )
    await swept(engine, attic, "run-old-1200")
    runs = Runs(system, ada)
    assert [run.run_id for run in (await runs.list()).runs] == [run_id]


async def test_with_zero_days_runs_are_kept_for_ever(system: System, ada: Person, attic: Attic, engine: Engine) -> None:
    young = await ended(system, ada)
    await attic.age(young, 30)
    assert await retention(engine, 0).once() == 0
    assert (await Runs(system, ada).get(young)).state == SUCCEEDED


async def test_statistics_of_days_that_nobody_can_ask_for_go(
    system: System, ada: Person, attic: Attic, engine: Engine
) -> None:
    for days in (89, 91):
        await attic.connection.execute(
            """INSERT INTO execution.run_statistic
               VALUES ($1, $2, (now() AT TIME ZONE 'UTC')::date - $3::int, 'counting', 'SUCCEEDED', 1, 1, 1, 1)""",
            *ada.context.owner,
            days,
        )
    await retention(engine).once()
    query = "SELECT count(*) FROM execution.run_statistic WHERE user_id = $1"
    assert await attic.connection.fetchval(query, ada.user_id) == 1


@pytest.mark.parametrize(
    "statement", ["UPDATE run SET agent = 'x'", "SELECT * FROM schedule", "SELECT * FROM user_slot"]
)
async def test_the_role_can_do_nothing_but_delete_what_is_old(system: System, statement: str) -> None:
    connection = await asyncpg.connect(system.database_url("carrel_execution_retention", driver="postgresql"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()
