"""Runs that somebody must follow: how long they go on alone, what keeps them, and how they end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio
from sqlalchemy import TextClause, text

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.ids import new_id
from carrel_execution.runs.follow import UNFOLLOWED
from tests.execution.test_runs import CANCELLED, SUCCEEDED, Runs
from tests.support.expect import refused
from tests.support.system import Person, System

SECONDS = 10.0
"""How long a run goes on without anybody, as the service is set."""
QUEUED, RUNNING = run_pb2.RUN_STATE_QUEUED, run_pb2.RUN_STATE_RUNNING


class Follower:
    """One person who starts runs that end when nobody follows them."""

    def __init__(self, system: System, person: Person, database: asyncpg.Connection) -> None:
        self._stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
        self._call: dict[str, Any] = {"metadata": person.metadata, "timeout": 20.0}
        self._database = database
        self.runs = Runs(system, person)

    async def start(self, on_disconnect: int = run_pb2.ON_DISCONNECT_CANCEL, **wanted: Any) -> run_pb2.Run:
        fields = {"agent": "sleeper", "input_json": '{"seconds":60}', "request_id": new_id("request"), **wanted}
        request = pb.StartRunRequest(on_disconnect=on_disconnect, **fields)
        return (await self._stub.StartRun(request, **self._call)).run

    async def follow(self, run_id: str) -> float | None:
        """For how long the run goes on then; None for ever."""
        answer = await self._stub.FollowRun(pb.FollowRunRequest(run_id=run_id), **self._call)
        return answer.next.ToTimedelta().total_seconds() if answer.HasField("next") else None

    async def leave_alone(self, run_id: str, seconds: float) -> None:
        """Lets so much time pass for the run without anybody following it."""
        await self._database.execute(
            "UPDATE execution.run SET follow_until = follow_until - make_interval(secs => $2) WHERE run_id = $1",
            run_id,
            seconds,
        )


@pytest_asyncio.fixture
async def database(system: System) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    yield connection
    await connection.close()


@pytest.fixture
def ada_follows(system: System, ada: Person, database: asyncpg.Connection) -> Follower:
    return Follower(system, ada, database)


@pytest.fixture
def eve_follows(system: System, eve: Person, database: asyncpg.Connection) -> Follower:
    return Follower(system, eve, database)


async def test_a_run_that_nobody_follows_is_cancelled_and_says_why(ada_follows: Follower) -> None:
    run = await ada_follows.start()
    await ada_follows.runs.until(run.run_id, RUNNING)
    await ada_follows.leave_alone(run.run_id, SECONDS)
    [*_, last] = await ada_follows.runs.story(run.run_id)
    assert (last.type, last.run_cancelled.reason) == ("run_cancelled", "nobody follows it any more")
    assert (await ada_follows.runs.get(run.run_id)).state == CANCELLED


async def test_one_that_still_waits_for_its_turn_is_cancelled_too(ada_follows: Follower) -> None:
    first = await ada_follows.start(run_pb2.ON_DISCONNECT_CONTINUE, thread_id="thread-1")
    waiting = await ada_follows.start(thread_id="thread-1")
    assert waiting.state == QUEUED
    await ada_follows.leave_alone(waiting.run_id, SECONDS)
    await ada_follows.runs.until(waiting.run_id, CANCELLED)
    assert (await ada_follows.runs.get(first.run_id)).state == RUNNING
    await ada_follows.runs.cancel(first.run_id)


async def test_who_follows_in_time_keeps_the_run(ada_follows: Follower) -> None:
    kept, left = await ada_follows.start(), await ada_follows.start()
    for run in (kept, left):
        await ada_follows.leave_alone(run.run_id, 0.6 * SECONDS)
    following = await ada_follows.follow(kept.run_id)
    assert following is not None and 0.9 * SECONDS < following <= SECONDS
    for run in (kept, left):
        await ada_follows.leave_alone(run.run_id, 0.5 * SECONDS)
    await ada_follows.runs.until(left.run_id, CANCELLED)
    assert (await ada_follows.runs.get(kept.run_id)).state == RUNNING
    await ada_follows.runs.cancel(kept.run_id)


async def test_following_often_writes_only_when_half_of_the_time_is_over(
    ada_follows: Follower, database: asyncpg.Connection
) -> None:
    run = await ada_follows.start()
    query = "SELECT follow_until FROM execution.run WHERE run_id = $1"
    before = await database.fetchval(query, run.run_id)
    for _ in range(3):
        following = await ada_follows.follow(run.run_id)
        assert following is not None and SECONDS / 2 < following <= SECONDS
    assert await database.fetchval(query, run.run_id) == before
    await ada_follows.runs.cancel(run.run_id)


async def test_a_run_that_goes_on_anyway_or_is_over_needs_nobody(ada_follows: Follower) -> None:
    anyway = await ada_follows.start(run_pb2.ON_DISCONNECT_CONTINUE)
    assert await ada_follows.follow(anyway.run_id) is None
    await ada_follows.runs.cancel(anyway.run_id)
    over = await ada_follows.start(agent="counting", input_json='{"calls":1}')
    await ada_follows.runs.story(over.run_id)
    await ada_follows.leave_alone(over.run_id, SECONDS)
    assert await ada_follows.follow(over.run_id) is None
    assert (await ada_follows.runs.get(over.run_id)).state == SUCCEEDED


async def test_another_user_can_keep_no_run(ada_follows: Follower, eve_follows: Follower) -> None:
    run = await ada_follows.start()
    await ada_follows.leave_alone(run.run_id, SECONDS - 2)
    with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
        await eve_follows.follow(run.run_id)
    await ada_follows.leave_alone(run.run_id, 2)
    await ada_follows.runs.until(run.run_id, CANCELLED)


async def test_what_nobody_follows_is_found_without_reading_the_runs(system: System) -> None:
    assert await plan(system, UNFOLLOWED, {"count": 100}) >= {"run_followed"}


async def plan(system: System, statement: TextClause, values: Mapping[str, Any]) -> set[str]:
    """The words of the plan by which the runner does this, whatever the tables hold; nothing of it is kept."""
    engine = cross_user_engine(system.database_url("carrel_execution_runner"), 1)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            rows = await connection.execute(text(f"EXPLAIN {statement.text}"), values)
            return {word for row in rows for word in row[0].split()}
    finally:
        await engine.dispose()
