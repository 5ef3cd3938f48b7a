"""The processes of agents on a machine without Landlock and seccomp, where an agent may fork: whatever it starts ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from carrel.agent import JSON
from carrel.agent_errors import AgentDied
from carrel_execution.agents.isolation.host import ProcessHost
from carrel_execution.agents.isolation.proxy import ProcessAgent
from tests.support.agents import Corpora, LocalRun
from tests.support.expect import eventually

MODULES = ["tests.support.rogue_agents"]


@pytest_asyncio.fixture
async def host() -> AsyncIterator[ProcessHost]:
    host = ProcessHost(MODULES, by_kernel=False, in_advance=False)
    await host.start()
    yield host
    await host.close()


@pytest.fixture
def zygote(host: ProcessHost) -> psutil.Process:
    """What the agents of `host` are forked from: the youngest child, for other systems may run beside."""
    return max(psutil.Process().children(), key=lambda child: child.create_time())


async def perform(host: ProcessHost, does: str, memory_mb: int = 128, **input: JSON) -> JSON:
    agent = ProcessAgent(host, "caged", memory_mb, grace_seconds=0.2)
    return await agent.run(LocalRun("caged", Corpora({})), {"does": does, **input})


async def nothing_is_left(zygote: psutil.Process) -> None:
    """The agent and what it has started are gone already; its keeper has told so and is about to go."""

    async def look() -> bool:
        return zygote.children(recursive=True) == []

    await eventually(look, seconds=2.0)


@pytest.mark.parametrize("does", ["fork", "fork_twice"])
async def test_what_an_agent_has_started_is_gone_when_its_run_is(
    host: ProcessHost, zygote: psutil.Process, does: str
) -> None:
    assert str(await perform(host, does)).startswith("forked")
    await nothing_is_left(zygote)


async def test_a_fork_without_end_is_ended(host: ProcessHost, zygote: psutil.Process) -> None:
    with pytest.raises(AgentDied, match="more than 64 processes"):
        await perform(host, "fork_without_end")
    await nothing_is_left(zygote)


async def test_memory_counts_over_all_its_processes(host: ProcessHost, zygote: psutil.Process) -> None:
    with pytest.raises(AgentDied, match="more than 128 MB"):
        await perform(host, "leak_in_many", mb=100)
    await nothing_is_left(zygote)


@pytest.mark.parametrize("does", ["leak", "leak_shared"])
async def test_memory_is_capped_also_where_it_is_shared(host: ProcessHost, zygote: psutil.Process, does: str) -> None:
    with pytest.raises(AgentDied, match="more than 64 MB"):
        await perform(host, does, memory_mb=64)
    await nothing_is_left(zygote)


async def test_an_agent_that_kills_its_keeper_gains_nothing(host: ProcessHost, zygote: psutil.Process) -> None:
    with pytest.raises(AgentDied, match="SIGKILL"):
        await perform(host, "kill_its_keeper")
    await nothing_is_left(zygote)
    assert await perform(host, "nothing")


async def test_nothing_of_it_stays_on_the_disk(host: ProcessHost) -> None:
    answer = await perform(host, "nothing")
    assert not await asyncio.to_thread(Path(answer["folder"]).exists)


async def test_when_the_service_is_killed_its_agents_end() -> None:
    program = f"""
import asyncio
from tests.execution.test_keeper import MODULES, ProcessHost, perform
async def main():
    host = ProcessHost({MODULES!r}, by_kernel=False, in_advance=False)
    await perform(host, "spin")
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=environment)
    watched = psutil.Process(service.pid)

    async def agent_at_work() -> list[psutil.Process]:
        found = watched.children(recursive=True)
        return found if len(found) == 3 else []  # what they are forked from, the keeper, the agent

    started = await eventually(agent_at_work)
    service.send_signal(signal.SIGKILL)
    await service.wait()

    async def all_gone() -> bool:
        return not any(each.is_running() for each in started)

    await eventually(all_gone)


async def test_what_a_killed_service_has_left_is_cleared_by_the_next_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, held = tmp_path / "carrel-agents-left", tmp_path / "another"
    (left / "7").mkdir(parents=True)
    held.mkdir()
    first = ProcessHost(MODULES)
    second = ProcessHost(MODULES)
    folders = await asyncio.to_thread(os.listdir, tmp_path)
    assert len(folders) == 3 and "another" in folders and left.name not in folders
    await first.close()
    await second.close()
    assert await asyncio.to_thread(os.listdir, tmp_path) == ["another"]
