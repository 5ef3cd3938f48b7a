"""Statistics of runs: what is counted, for whom, and who may see it."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import asyncpg
import grpc
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from carrel.api.runs.v1 import run_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.db.engine import cross_user_engine
from carrel_chassis.errors import CarrelError
from carrel_execution.domain import State
from carrel_execution.runs.statistics import NEVER_BEGAN, Count, RunStatistics, Summary, bucket_of, summaries
from tests.execution.test_runs import CANCELLED, Runs
from tests.support.directory import with_role
from tests.support.expect import eventually, refused
from tests.support.system import Person, System

SECONDS = st.floats(min_value=0.0, max_value=1e6)


def counted(seconds: list[float], state: State = State.SUCCEEDED) -> Summary:
    """The summary of runs that worked so long."""
    return Summary("x", [Count("x", state, bucket_of(each), 1, each, each) for each in seconds])


@given(SECONDS)
def test_a_bucket_holds_what_is_at_most_half_as_much_again(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert seconds <= 0.001 * 1.5**bucket * (1 + 1e-9)
    assert bucket == 0 or seconds > 0.001 * 1.5 ** (bucket - 1) * (1 - 1e-9)


@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from([0.5, 0.99, 1.0]))
def test_a_percentile_is_wrong_by_half_at_most(seconds: list[float], share: float) -> None:
    true = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    told = counted(seconds).seconds_at(share)
    assert true * (1 - 1e-9) <= told <= max(true * 1.5, 0.001) * (1 + 1e-9)


def test_what_never_began_counts_as_ended_and_took_no_time() -> None:
    summary = Summary("x", [*counted([2.0]).counts, Count("x", State.CANCELLED, NEVER_BEGAN, 3, 0.0, 0.0)])
    assert (summary.ended(State.CANCELLED), summary.success_rate) == (3, 0.25)
    assert (summary.mean_seconds, summary.longest_seconds, summary.seconds_at(0.01)) == (2.0, 2.0, 2.0)


def test_the_last_summary_is_of_all_agents_and_of_none_when_there_are_none() -> None:
    of_a, of_b = Count("a", State.FAILED, 1, 2, 1.0, 0.5), Count("b", State.SUCCEEDED, 1, 1, 0.25, 0.25)
    assert summaries([of_b, of_a]) == [Summary("a", [of_a]), Summary("b", [of_b]), Summary("", [of_b, of_a])]
    [empty] = summaries([])
    assert (empty.success_rate, empty.mean_seconds, empty.longest_seconds, empty.seconds_at(0.5)) == (
        0.0,
        0.0,
        0.0,
        0.0,
    )


async def of_user(system: System, person: Person, **wanted: Any) -> dict[str, run_pb2.RunStatistics]:
    stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
    answer = await stub.GetRunStatistics(pb.GetRunStatisticsRequest(**wanted), metadata=person.metadata, timeout=10)
    return {each.agent: each for each in answer.statistics}


async def overall(system: System, person: Person) -> dict[str, run_pb2.RunStatistics]:
    stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
    request = pb.GetOverallRunStatisticsRequest()
    answer = await stub.GetOverallRunStatistics(request, metadata=person.metadata, timeout=10)
    return {each.agent: each for each in answer.statistics}


async def ends(system: System, person: Person) -> int:
    """How many of the person's runs are counted."""
    whole = (await of_user(system, person))[""]
    return whole.succeeded + whole.failed + whole.cancelled + whole.timed_out + whole.dead


async def test_each_way_to_end_is_counted_for_its_user_alone(system: System, ada: Person, eve: Person) -> None:
    runs = Runs(system, ada)
    for agent in ("counting", "counting", "failing", "dying"):
        await runs.story((await runs.start(agent)).run_id)
    working = await runs.start("sleeper", {"seconds": 60})
    await runs.until(working.run_id, run_pb2.RUN_STATE_RUNNING)
    first = await runs.start("sleeper", {"seconds": 60}, thread_id="thread-1")
    queued = await runs.start("sleeper", {"seconds": 60}, thread_id="thread-1")
    for run in (queued, working, first):
        await runs.cancel(run.run_id)
        await runs.until(run.run_id, CANCELLED)

    async def all_counted() -> bool:
        return await ends(system, ada) == 7

    assert await eventually(all_counted)
    found = await of_user(system, ada)
    assert [*found] == ["counting", "dying", "failing", "sleeper", ""]
    assert (found["counting"].succeeded, found["counting"].success_rate) == (2, 1.0)
    assert (found["failing"].failed, found["dying"].dead, found["sleeper"].cancelled) == (1, 1, 3)
    whole = found[""]
    assert (whole.succeeded, whole.failed, whole.cancelled, whole.dead) == (2, 1, 3, 1)
    assert whole.success_rate == pytest.approx(2 / 7)
    assert 0 < whole.p50_duration.ToNanoseconds() <= whole.p99_duration.ToNanoseconds()
    assert whole.p99_duration.ToNanoseconds() <= whole.longest_duration.ToNanoseconds()
    assert [*await of_user(system, eve)] == [""] and await ends(system, eve) == 0


async def test_a_tenants_administrator_sees_the_tenant_and_one_of_all_tenants_sees_all(
    system: System, ada: Person, eve: Person
) -> None:
    colleague = await system.person(ada.tenant_id)
    for person, agent in ((ada, "counting"), (colleague, "failing"), (eve, "crashing")):
        runs = Runs(system, person)
        await runs.story((await runs.start(agent)).run_id)
        assert await eventually(lambda person=person: ends(system, person))  # type: ignore[misc]
    of_tenant = await overall(system, await with_role(system, "admin", ada.tenant_id))
    assert [*of_tenant] == ["counting", "failing", ""]
    assert (of_tenant[""].succeeded, of_tenant[""].failed) == (1, 1)
    of_all = await overall(system, await with_role(system, "super_admin", ada.tenant_id))
    assert {"counting", "failing", "crashing"} <= of_all.keys()
    for person in (ada, eve):
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
            await overall(system, person)


async def test_the_metrics_page_counts_by_agent_and_names_nobody(system: System, ada: Person) -> None:
    runs = Runs(system, ada)
    run = await runs.start("counting")
    await runs.story(run.run_id)
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"http://{system.addresses['metrics.execution']}/metrics")).text
    for sample in ("carrel_runs_ended_total", "carrel_run_duration_seconds_count"):
        [line] = [
            line
            for line in page.splitlines()
            if line.startswith(sample) and 'agent="counting"' in line and "SUCCEEDED" in line
        ]
        assert float(line.rsplit(" ", 1)[1]) >= 1
    for secret in (ada.tenant_id, ada.user_id, run.run_id, run.thread_id):
        assert secret not in page


async def test_nobody_asks_for_more_days_than_are_kept(system: System, ada: Person) -> None:
    assert [*await of_user(system, ada, days=90)] == [""]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await of_user(system, ada, days=91)
    assert [*refusal.error.fields] == ["days"]


async def test_the_role_for_a_tenant_sees_no_other_and_changes_nothing(
    system: System, ada: Person, eve: Person
) -> None:
    for person in (ada, eve):
        runs = Runs(system, person)
        await runs.story((await runs.start("counting")).run_id)
        assert await eventually(lambda person=person: ends(system, person))  # type: ignore[misc]
    connection = await asyncpg.connect(system.database_url("carrel_execution_statistics", driver="postgresql"))
    try:
        assert await connection.fetch("SELECT * FROM run_statistic") == []
        await connection.execute("SELECT set_config('app.tenant_id', $1, false)", eve.tenant_id)
        tenants = await connection.fetch("SELECT DISTINCT tenant_id FROM run_statistic")
        assert [row["tenant_id"] for row in tenants] == [eve.tenant_id]
        for statement in ("DELETE FROM run_statistic", "UPDATE run_statistic SET runs = 0", "SELECT * FROM run"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_what_could_not_be_written_is_counted_on(system: System, ada: Person) -> None:
    engine = cross_user_engine(system.database_url("carrel_execution_runner"), 1)
    superuser = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    statistics = RunStatistics(engine, lambda: 0.0)
    try:
        async with engine.connect() as connection:
            process = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()

        async def waits() -> bool:
            query = "SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted"
            return bool(await superuser.fetchval(query, process))

        statistics.ended(*ada.context.owner, "counting", State.SUCCEEDED, 0.1)
        async with superuser.transaction():
            await superuser.execute("LOCK TABLE execution.run_statistic IN EXCLUSIVE MODE")
            writing = asyncio.create_task(statistics.write())
            assert await eventually(waits)
            await superuser.fetchval("SELECT pg_terminate_backend($1)", process)
            with pytest.raises(CarrelError):
                await writing
        statistics.ended(*ada.context.owner, "counting", State.SUCCEEDED, 0.2)
        for _ in range(2):
            await statistics.write()
        query = "SELECT sum(runs)::int FROM execution.run_statistic WHERE user_id = $1"
        assert await superuser.fetchval(query, ada.user_id) == 2
    finally:
        await superuser.close()
        await engine.dispose()
