"""Every file in examples/ is run as it stands, against a system that has been started as they say."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from carrel import Client
from carrel.api.runs.v1.run_pb2 import RunState
from carrel_chassis.stack import Stack
from tests.support.system import ROOT, Person, System, test_settings

EXAMPLES = ROOT / "examples"
PATH = f"{os.environ['PATH']}:{ROOT / 'build' / 'bin'}"
"""With what `make bench-ghz` has installed."""
RUN = {
    "answering_client.py", "python_client.py", "python_client_sync.py", "curl.sh", "ghz.sh", "my_agent.py", "my_tool.py", "README.md",
    "pydantic_ai_agent.py",  # by tests/sdk/test_with_pydantic_ai.py
}  # fmt: skip


@pytest_asyncio.fixture(scope="module")
async def theirs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A system with the agent and the tool of the examples."""
    environment = {
        "PYTHONPATH": f"{ROOT}:{EXAMPLES}",
        "CARREL_AGENT_MODULES": "my_agent",
        "CARREL_TOOL_MODULES": "my_tool",
    }
    data_dir = tmp_path_factory.mktemp("examples") / "data"
    async with Stack(test_settings(data_dir, only=None, service_environment=environment)) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


@pytest_asyncio.fixture
async def reader(theirs: System) -> Person:
    return await theirs.person()


async def output_of(system: System, person: Person, *command: str, said: str = "") -> str:
    """What a command writes that is told something on its standard input."""
    environment = {
        **os.environ,
        "PATH": PATH,
        "CARREL_TOKEN": person.token,
        "CARREL_ADDRESS": system.addresses["gateway"],
        "CARREL_HTTP": f"http://{system.addresses['gateway_http']}",
    }
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(said.encode()), 60)
    assert process.returncode == 0, output.decode()
    return output.decode()


def in_order(output: str, wanted: Sequence[str]) -> None:
    place = -1
    for text in wanted:
        place = output.find(text, place + 1)
        assert place >= 0, f"{text} is not there, or not in its place:\n{output}"


@pytest.mark.parametrize("name", ["python_client.py", "python_client_sync.py"])
async def test_the_python_clients(theirs: System, reader: Person, name: str) -> None:
    output = await output_of(theirs, reader, sys.executable, str(EXAMPLES / name))
    in_order(output, ["run_queued", "agent_started", "tool_completed", "agent_completed", "Hello, Carrel"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_goes_on_after_the_last_event_it_saw(theirs: System, reader: Person) -> None:
    output = await output_of(theirs, reader, "bash", str(EXAMPLES / "curl.sh"))
    in_order(output, ["started run-", "seen until ", "event: agent_started", "event: agent_completed", "RUN_NOT_FOUND"])
    assert "event: run_queued" not in output


@pytest.mark.skipif(
    shutil.which("ghz", path=PATH) is None, reason="ghz is not here; make bench-ghz gets it where Go is"
)
async def test_ghz(theirs: System, reader: Person) -> None:
    output = await output_of(theirs, reader, "bash", str(EXAMPLES / "ghz.sh"))
    assert "[OK]" in output
    assert "500 responses" in output


async def test_an_agent_and_a_tool_of_ones_own(theirs: System, reader: Person) -> None:
    async with Client(theirs.addresses["gateway"], reader.token) as client:
        run = await client.start_run("poet", {"subject": "the sea"})
        types = [event.type async for event in client.watch_run(run.run_id)]
        done = await client.get_run(run.run_id)
        assert json.loads(done.result_json)["words"] == 13
        assert types.count("progress_update") == 3
        assert [call.tool async for call in client.list_tool_calls(run.run_id)] == ["count_words"]
        failed = await client.start_run("poet", {"subject": 7})
        assert [event.type async for event in client.watch_run(failed.run_id)][-1] == "agent_failed"
        assert (await client.get_run(failed.run_id)).state == RunState.RUN_STATE_FAILED


async def test_an_agent_that_asks_gets_its_answer(theirs: System, reader: Person) -> None:
    command = (sys.executable, str(EXAMPLES / "answering_client.py"), "poet", "{}")
    output = await output_of(theirs, reader, *command, said='"the sea"\n')
    in_order(output, ["What shall it be about?", "RUN_STATE_SUCCEEDED", "O the sea,"])


def test_no_example_is_left_out() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == RUN
