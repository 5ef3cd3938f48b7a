"""Agents in processes of their own, through the whole system: they can do what an agent can, and no more; and they end."""

from __future__ import annotations

import asyncio
import json
from os.path import exists
from typing import Any

import psutil
import pytest

from carrel.api.runs.v1 import run_pb2
from tests.context.test_limits import set_limits
from tests.execution.test_runs import CANCELLED, DEAD, FAILED, SUCCEEDED, Runs, types
from tests.support.expect import eventually
from tests.support.journals import Journals
from tests.support.system import Person, System


@pytest.fixture
def runs(system: System, ada: Person) -> Runs:
    return Runs(system, ada)


def agents_at_work(system: System) -> int:
    """How many processes there are for agents, but for the one that is ready for the next."""
    service = psutil.Process(system.stack.pids()["execution"])
    [zygote] = service.children()
    keepers = zygote.children()
    assert len(zygote.children(recursive=True)) <= 2 * len(keepers)  # each has its agent, and that has nothing
    return len(keepers) - 1


async def nothing_is_left(system: System) -> None:
    async def look() -> bool:
        return agents_at_work(system) <= 0

    await eventually(look)


async def result(runs: Runs, agent: str, does: str, **input: Any) -> Any:
    run = await runs.start(agent, {"does": does, **input})
    await runs.story(run.run_id)
    ended = await runs.get(run.run_id)
    assert ended.state == SUCCEEDED, ended.error
    return json.loads(ended.result_json)


async def test_an_agent_in_a_process_can_do_all_that_one_in_the_loop_can(runs: Runs) -> None:
    found = [await result(runs, agent, "use_everything") for agent in ("caged", "rogue")]
    for each in found:
        assert each.pop("time") > 0 and 0 <= each.pop("chance") < 1
        assert each == {
            "texts": ["one", "two"],
            "step": "within a step",
            "state": {"seen": True},
            "below": {"numbers": [1]},
        }


async def test_it_tells_the_same_story(runs: Runs) -> None:
    stories = []
    for agent in ("caged", "rogue"):
        run = await runs.start(agent, {"does": "use_everything"})
        stories.append(types(await runs.story(run.run_id)))
    assert stories[0] == stories[1]


async def test_its_process_has_no_environment_and_a_folder_of_its_own(runs: Runs) -> None:
    first, second = [await result(runs, "caged", "nothing") for _ in range(2)]
    assert first["environment"] == ["HOME", "TMPDIR"]
    assert first["folder"] != second["folder"] and not await asyncio.to_thread(exists, first["folder"])


async def test_it_reaches_no_file_of_the_service_no_port_and_no_process(system: System, runs: Runs) -> None:
    service = system.stack.pids()["execution"]
    _, _, port = system.addresses["postgres"].rpartition(":")
    for does, input in (
        ("read", {"file": str(system.data_dir / "secrets.json")}),
        ("read", {"file": str(system.data_dir / "keys" / "agent-execution.key")}),
        ("read", {"file": f"/proc/{service}/environ"}),
        ("connect", {"port": int(port)}),
        ("kill", {"process": service}),
        ("fork", {}),
    ):
        assert await result(runs, "caged", "try", what=does, **input) == "PermissionError", does


@pytest.mark.parametrize(
    ("does", "cause"),
    [
        ("leak", "more than 128 MB"),
        ("exit", "died of SystemExit"),
        ("interrupt", "died of KeyboardInterrupt"),
        ("exit_in_a_task", "died of SystemExit"),
        ("exit_at_once", "ended with code 7"),
        ("kill_itself", "killed by SIGKILL"),
    ],
)
async def test_when_its_process_dies_the_user_is_told_why(system: System, runs: Runs, does: str, cause: str) -> None:
    run = await runs.start("caged", {"does": does})
    last = (await runs.story(run.run_id))[-1]
    assert last.type == "agent_died" and cause in last.agent_died.cause
    assert (await runs.get(run.run_id)).state == DEAD
    await nothing_is_left(system)


@pytest.mark.parametrize("whose", ["user", "tenant"])
async def test_a_limit_of_the_user_or_the_tenant_comes_before_what_the_agent_would_have(
    system: System, ada: Person, whose: str
) -> None:
    await set_limits(system, ada.tenant_id, ada.user_id if whose == "user" else "", isolated_memory_mb=48)
    runs = Runs(system, await system.person(ada.tenant_id, ada.user_id))
    run = await runs.start("caged", {"does": "leak"})
    assert "more than 48 MB" in (await runs.story(run.run_id))[-1].agent_died.cause


async def test_a_failure_is_the_same_as_in_the_loop(runs: Runs) -> None:
    for does, reason in (("recurse", "AGENT_CRASHED"), ("change_its_class", "CLASS_FROZEN")):
        for agent in ("caged", "rogue"):
            run = await runs.start(agent, {"does": does})
            assert (await runs.story(run.run_id))[-1].agent_failed.reason == reason
            assert (await runs.get(run.run_id)).state == FAILED


@pytest.mark.parametrize("does", ["sleep", "spin", "swallow_cancellation", "keep_the_interpreter"])
async def test_a_cancel_ends_its_process_whatever_it_does(system: System, runs: Runs, does: str) -> None:
    run = await runs.start("caged", {"does": does})

    async def at_work() -> bool:
        return "agent_thinking" in types(await runs.events(run.run_id))

    await eventually(at_work)
    assert agents_at_work(system)
    await runs.cancel(run.run_id, "enough")
    assert (await runs.story(run.run_id))[-1].type == "run_cancelled"
    assert (await runs.get(run.run_id)).state == CANCELLED
    await nothing_is_left(system)


async def test_the_answer_to_a_cancel_names_the_process_that_has_ended(system: System, runs: Runs, ada: Person) -> None:
    run = await runs.start("caged", {"does": "spin"})

    async def at_work() -> bool:
        return "agent_thinking" in types(await runs.events(run.run_id))

    await eventually(at_work)
    answer = await Journals(system, ada).cancel(run.run_id, 10.0)
    assert [(part.kind, part.name, part.step_id) for part in answer.stopped] == [("process", "caged", "")]
    assert not answer.not_stopped and agents_at_work(system) <= 0


async def test_one_that_keeps_its_process_busy_is_nobody_elses_business(
    system: System, runs: Runs, eve: Person
) -> None:
    busy = await runs.start("caged", {"does": "spin"})
    await runs.until(busy.run_id, run_pb2.RUN_STATE_RUNNING)
    others = Runs(system, eve)
    run = await others.start("counting", {"calls": 3})
    assert (await others.story(run.run_id))[-1].type == "agent_completed"
    assert (await runs.get(busy.run_id)).state == run_pb2.RUN_STATE_RUNNING
    await runs.cancel(busy.run_id)
    await runs.story(busy.run_id)


async def test_many_at_once_each_get_their_own(runs: Runs) -> None:
    started = await asyncio.gather(*(runs.start("caged", {"does": "nothing"}) for _ in range(12)))
    for run in started:
        await runs.story(run.run_id)
    ended = [json.loads((await runs.get(run.run_id)).result_json) for run in started]
    assert len({each["process"] for each in ended}) == 12


async def test_when_what_they_are_forked_from_is_killed_the_next_one_starts_it_again(
    system: System, runs: Runs
) -> None:
    await result(runs, "caged", "nothing")
    service = psutil.Process(system.stack.pids()["execution"])
    [zygote] = service.children()
    zygote.kill()
    assert await result(runs, "caged", "nothing")


async def test_agents_that_run_in_processes_say_so(runs: Runs) -> None:
    kinds = {agent.name: agent.isolation for agent in (await runs.agents()).agents}
    assert kinds["caged"] == run_pb2.AGENT_ISOLATION_PROCESS
    assert kinds["rogue"] == run_pb2.AGENT_ISOLATION_LOOP
