"""What the README shows is run as it stands there."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from carrel import Client
from carrel.tool_kit import run_tool
from carrel_chassis.stack import Stack
from carrel_execution.models.settings import load_models
from carrel_tools.tool_sources import added_tools
from tests.support.system import ROOT, System, test_settings

README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def code_with(words: str) -> str:
    """The one block of Python in which these words stand."""
    [source] = [block for block in code_blocks("python") if words in block]
    return source


async def test_the_tool_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tools.py").write_text(code_with("@carrel.tool"))
    monkeypatch.syspath_prepend(tmp_path)
    [tool] = added_tools("my_tools")
    assert await run_tool(tool, name="Ada Lovelace") == "AL"


async def test_the_agent_of_the_readme_runs(tmp_path: Path) -> None:
    (tmp_path / "my_agents.py").write_text(code_with("@carrel.agent"))
    environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "CARREL_AGENT_MODULES": "my_agents"}
    async with Stack(test_settings(tmp_path / "data", only=None, service_environment=environment)) as stack:
        await stack.ready(60)
        system = System(stack)
        person = await system.person()
        async with Client(stack.addresses["gateway"], person.token) as client:
            run = await client.start_run("greeter", {"who": "Ada"})
            types = [event.type async for event in client.watch_run(run.run_id)]
            result = json.loads((await client.get_run(run.run_id)).result_json)
        await system.close()
    assert result == {"text": "Hello, Ada"}
    assert types[-1] == "agent_completed"


async def test_the_test_of_the_readme_runs() -> None:
    found: dict[str, Any] = {}
    exec(code_with("@carrel.agent"), found)
    await eval(compile(code_with("AgentRun"), "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), found)
    assert found["run"].attempt == 2


def test_the_models_of_the_readme_are_read(tmp_path: Path) -> None:
    [source] = code_blocks("toml")
    (tmp_path / "models.toml").write_text(source)
    assert list(load_models(tmp_path / "models.toml")) == ["small", "large"]


def test_every_file_that_the_documents_name_is_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name in re.findall(r"`((?:libs|services|gateway|tests|protos|docs|tools)/[\w./-]+)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_carrel_command_of_the_readme_is_one() -> None:
    import subprocess

    for command in sorted(set(re.findall(r"^carrel ([a-z]+)", README, re.MULTILINE))):
        shown = subprocess.run([sys.executable, "-m", "carrel_cli", command, "--help"], capture_output=True, text=True)
        assert shown.returncode == 0, command
