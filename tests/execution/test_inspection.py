"""What operators see of a process that works on runs: its instances, its memory, what it has left out; and who may look."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
import pytest_asyncio

from carrel.api.runs.v1 import run_pb2, worker_pb2
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel_chassis.stack import Stack
from carrel_execution.agents.instance_counts import Durations
from carrel_execution.agents.isolation.bounds import kernel_confines
from tests.execution.test_runs import Runs
from tests.support.directory import with_role
from tests.support.expect import eventually, refused
from tests.support.system import Person, System, test_settings


@pytest_asyncio.fixture(scope="module")
async def inspected(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """One of its modules of agents cannot be imported."""
    modules = "tests.support.rogue_agents,tests.support.agents_under_test,tests.support.no_such_agents"
    settings = test_settings(
        tmp_path_factory.mktemp("inspected") / "data",
        only=("context", "execution", "tools", "events"),
        service_environment={"CARREL_AGENT_MODULES": modules},
    )
    async with Stack(settings) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


async def inspect(system: System, person: Person) -> worker_pb2.Worker:
    stub: rpc.RunServiceAsyncStub = rpc.RunServiceStub(system.peer("agent-execution").channel)
    return (await stub.InspectWorker(pb.InspectWorkerRequest(), metadata=person.metadata, timeout=10)).worker


async def test_an_operator_sees_the_instances_of_a_process_and_its_memory(inspected: System) -> None:
    operator = await with_role(inspected, "super_admin")
    before = await inspect(inspected, operator)
    runs = Runs(inspected, await inspected.person())
    for agent in ("rogue", "caged"):
        await runs.story((await runs.start(agent, {"does": "nothing"})).run_id)
    working = await runs.start("rogue", {"does": "sleep", "seconds": 60})
    await runs.until(working.run_id, run_pb2.RUN_STATE_RUNNING)

    async def one_at_work() -> worker_pb2.Worker | None:
        found = await inspect(inspected, operator)
        return found if found.instances.active == found.active_runs == 1 else None

    during = await eventually(one_at_work)
    assert during.instances.created == before.instances.created + 3
    assert during.instances.active_contexts >= 1
    assert during.instances.cleanup_success_rate == 1.0
    for now, earlier in (
        (during.instances.in_loop, before.instances.in_loop),
        (during.instances.in_process, before.instances.in_process),
    ):
        assert now.count > earlier.count
        assert 0 < now.p50.ToNanoseconds() <= now.p95.ToNanoseconds() <= now.p99.ToNanoseconds()
    assert during.memory.resident_bytes > 2**20 and during.memory.resident_at_start_bytes > 2**20
    grown = during.memory.resident_bytes - during.memory.resident_at_start_bytes
    assert during.memory.growth_per_active_run_bytes == max(0, grown)
    await runs.cancel(working.run_id)
    await runs.story(working.run_id)
    assert (await inspect(inspected, operator)).memory.growth_per_active_run_bytes == 0


async def test_no_instance_and_no_context_is_left_of_runs_that_are_over(inspected: System) -> None:
    operator = await with_role(inspected, "super_admin")
    runs = Runs(inspected, await inspected.person())
    started = [await runs.start("rogue", {"does": "keep_its_context"})]
    cancelled = await runs.start("rogue", {"does": "sleep", "seconds": 60})
    await runs.until(cancelled.run_id, run_pb2.RUN_STATE_RUNNING)
    started += [await runs.start("counting") for _ in range(10)]
    await runs.cancel(cancelled.run_id)
    for run in (*started, cancelled):
        await runs.story(run.run_id)

    async def none_left() -> bool:
        instances = (await inspect(inspected, operator)).instances
        return instances.active == instances.active_contexts == 0

    await eventually(none_left)


async def test_an_operator_sees_what_was_left_out_and_how_the_process_is_set(inspected: System) -> None:
    found = await inspect(inspected, await with_role(inspected, "super_admin"))
    [skipped] = found.skipped_modules
    assert skipped.name == "tests.support.no_such_agents"
    assert skipped.error == "ModuleNotFoundError: No module named 'tests.support.no_such_agents'"
    log = (inspected.data_dir / "logs" / "execution.log").read_text()
    assert "agents.skipped" in log and "Traceback" in log
    kernel = worker_pb2.AGENT_CONFINEMENT_KERNEL if kernel_confines() else worker_pb2.AGENT_CONFINEMENT_LIMITS
    assert found.confinement == kernel
    assert "caged" in found.isolated_agents and "rogue" not in found.isolated_agents
    assert (found.stuck_limit.ToMilliseconds(), found.lease.ToMilliseconds()) == (1300, 4000)
    assert (found.breaker_failures, found.breaker_pause.ToSeconds()) == (5, 30)


async def test_what_is_told_names_no_user_and_no_run(inspected: System) -> None:
    ada = await inspected.person()
    runs = Runs(inspected, ada)
    run = await runs.start("counting")
    await runs.story(run.run_id)
    told = str(await inspect(inspected, await with_role(inspected, "super_admin")))
    page = await _page(inspected)
    assert "carrel_worker_memory" in page and "carrel_agent_contexts" in page
    assert "carrel_agent_creation_duration_seconds_bucket" in page
    for secret in (ada.tenant_id, ada.user_id, run.run_id, run.thread_id):
        assert secret not in told and secret not in page


async def test_neither_a_user_nor_the_administrator_of_a_tenant_may_look(inspected: System) -> None:
    for person in (await inspected.person(), await with_role(inspected, "admin")):
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
            await inspect(inspected, person)


async def _page(system: System) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{system.addresses['metrics.execution']}/metrics")).text


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 1.0])
def test_a_share_of_durations_is_at_most_a_quarter_too_high(share: float) -> None:
    times = Durations()
    for microseconds in range(1, 1001):
        times.add(microseconds / 1e6)
    exact = share * 1000 / 1e6
    assert exact <= times.seconds_at(share) * 1.0001 and times.seconds_at(share) <= exact * 1.25


def test_of_no_durations_there_is_no_share_and_very_long_ones_are_counted() -> None:
    times = Durations()
    assert (times.count, times.seconds_at(0.99)) == (0, 0.0)
    times.add(0.0)
    times.add(3600.0)
    assert times.count == 2 and times.seconds_at(0.5) == 1e-6 and times.seconds_at(1.0) > 50
