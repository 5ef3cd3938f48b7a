"""`carrel new agent` makes a project that works; agents are found where they are installed, and a broken one stops no other."""

from __future__ import annotations

import asyncio
import os
import sys
import tomllib
from pathlib import Path

import pytest

from carrel.agent_sources import load_agents
from carrel_chassis.errors import CarrelError
from carrel_cli.checkup import check_up
from carrel_execution.agents.registry import load_registry

TWICE = """
import carrel
@carrel.agent(name="echo")
async def mine(context, input):
    "Takes a name that is taken."
AGENTS = (mine,)
"""


async def run(command: list[str], *path: Path) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode()


def new(name: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "carrel_cli", "new", "agent", name, "--folder", str(folder)]


async def test_a_new_project_passes_its_own_test_and_is_found_when_installed(tmp_path: Path) -> None:
    code, output = await run(new("parrot", tmp_path))
    assert code == 0, output
    assert (await run(new("parrot", tmp_path)))[0] == 1, "what is there is not overwritten"
    project = tmp_path / "carrel-agent-parrot"
    code, output = await run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project)], project)
    assert code == 0 and "3 passed" in output, output
    site = tmp_path / "site"
    install(project, site)
    look = "from carrel_execution.agents.registry import load_registry; print(load_registry([]).names)"
    code, output = await run([sys.executable, "-c", look], site, project)
    assert "parrot" in output and "supervisor" in output, output


def install(project: Path, site: Path) -> None:
    """What `pip install` writes so that entry points are found, without an index."""
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / "carrel_agent_parrot-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    lines = [f"{name} = {target}" for name, target in told["entry-points"]["carrel.agents"].items()]
    (info / "entry_points.txt").write_text("[carrel.agents]\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["", "Parrot", "a-b", "1a", "../x", "class"])
async def test_a_name_that_is_none_for_an_agent_is_refused(tmp_path: Path, name: str) -> None:
    code, output = await run(new(name, tmp_path))
    assert code != 0 and not os.listdir(tmp_path), output


async def test_a_module_that_cannot_be_imported_is_in_the_doctors_report_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agents_with_a_slip.py").write_text("AGENTS = (undefined,)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CARREL_AGENT_MODULES", "agents_with_a_slip,tests.support.agents_of_the_kit")
    classes, skipped = load_agents(["agents_with_a_slip", "tests.support.agents_of_the_kit"])
    assert [each.name for each in classes] == ["kit_adding", "kit_all", "kit_parallel"]
    assert "NameError: name 'undefined' is not defined" in skipped["agents_with_a_slip"]
    [check] = [each for each in await check_up(tmp_path / "data", 0) if each.name == "agents"]
    assert check.level == "warn"
    assert "agents_with_a_slip cannot be imported" in check.finding and "Traceback" in check.finding


def test_a_name_that_is_taken_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agents_of_a_name.py").write_text(TWICE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CarrelError, match=r"^Two agents are named echo; rename one\.$"):
        load_registry(["agents_of_a_name"])
