"""The circuit breaker of (user, agent): who fails too often in a row waits; nobody else does."""

from __future__ import annotations

import asyncpg
import grpc
import pytest

from tests.execution.test_runs import DEAD, FAILED, SUCCEEDED, Runs
from tests.support.expect import refused
from tests.support.system import Person, System

FAILURES = 5


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


async def ends(runs: Runs, agent: str, state: int, times: int = 1) -> None:
    for _ in range(times):
        run = await runs.start(agent)
        await runs.story(run.run_id)
        assert (await runs.get(run.run_id)).state == state


async def test_an_agent_that_dies_again_and_again_is_not_started_for_a_while(system: System, runs: Runs) -> None:
    await ends(runs, "dying", DEAD, FAILURES)
    with refused(grpc.StatusCode.UNAVAILABLE, "AGENT_BREAKER_OPEN") as refusal:
        await runs.start("dying")
    assert refusal.error.metadata["agent"] == "dying"
    assert refusal.error.retry_seconds is not None and 0 < refusal.error.retry_seconds <= 30
    await ends(runs, "counting", SUCCEEDED)


async def test_other_users_of_that_agent_notice_nothing(system: System, runs: Runs, ada: Person, eve: Person) -> None:
    await ends(runs, "crashing", FAILED, FAILURES)
    with refused(grpc.StatusCode.UNAVAILABLE, "AGENT_BREAKER_OPEN"):
        await runs.start("crashing")
    for other in (eve, await system.person(tenant_id=ada.tenant_id)):
        await ends(Runs(system, other), "crashing", FAILED)


async def test_the_same_request_still_returns_the_run_that_it_started(runs: Runs) -> None:
    first = await runs.start("dying", request_id="request-first")
    await runs.story(first.run_id)
    await ends(runs, "dying", DEAD, FAILURES - 1)
    with refused(grpc.StatusCode.UNAVAILABLE, "AGENT_BREAKER_OPEN"):
        await runs.start("dying")
    assert (await runs.start("dying", request_id="request-first")).run_id == first.run_id


async def test_a_success_in_between_begins_the_count_anew(runs: Runs) -> None:
    async def works() -> None:
        run = await runs.start("rogue", {"does": "nothing"})
        await runs.story(run.run_id)
        assert (await runs.get(run.run_id)).state == SUCCEEDED

    async def crashes(times: int) -> None:
        for _ in range(times):
            run = await runs.start("rogue", {"does": "recurse"})
            await runs.story(run.run_id)

    await crashes(FAILURES - 1)
    await works()
    await crashes(FAILURES - 1)
    await works()


async def test_what_an_agent_says_itself_does_not_count(runs: Runs) -> None:
    await ends(runs, "failing", FAILED, FAILURES + 1)


async def test_when_the_while_is_over_it_may_be_tried_once(system: System, runs: Runs, ada: Person) -> None:
    await ends(runs, "dying", DEAD, FAILURES)
    connection = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:
        await connection.execute(
            "UPDATE execution.agent_breaker SET failure_time = failure_time - interval '31 s' WHERE user_id = $1",
            ada.user_id,
        )
    finally:
        await connection.close()
    await ends(runs, "dying", DEAD)
    with refused(grpc.StatusCode.UNAVAILABLE, "AGENT_BREAKER_OPEN"):
        await runs.start("dying")


async def test_nobody_reads_anothers_count(system: System, runs: Runs, ada: Person, eve: Person) -> None:
    await ends(runs, "dying", DEAD)
    connection = await asyncpg.connect(system.database_url("carrel_execution", driver="postgresql"))
    try:
        for person, seen in ((ada, 1), (eve, 0)):
            async with connection.transaction():
                for name, value in (("tenant_id", person.tenant_id), ("user_id", person.user_id)):
                    await connection.execute("SELECT set_config($1, $2, true)", f"app.{name}", value)
                assert await connection.fetchval("SELECT count(*) FROM execution.agent_breaker") == seen
                until = "SELECT execution.breaker_open_until($1, $2, 'dying', 1, 30)"
                open_until = await connection.fetchval(until, ada.tenant_id, ada.user_id)
                assert (open_until is not None) == bool(seen)
    finally:
        await connection.close()
