"""What a person sees who asks for help, gets it wrong, or has no system running."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from carrel_execution.agents.isolation.bounds import kernel_confines
from tests.cli.program import carrel


async def test_help_answers_quickly_and_names_every_command() -> None:
    began = time.monotonic()
    ended = await carrel("--help")
    # Generous: the machine is shared. Loading gRPC and SQLAlchemy alone would take longer when it is idle.
    assert time.monotonic() - began < 3
    assert ended.code == 0
    for command in ("up", "down", "doctor", "demo", "token", "run", "runs", "events", "corpus", "agents", "tools"):
        assert f" {command} " in ended.out


async def test_it_says_which_version_it_is() -> None:
    answer = await carrel("--version")
    assert (answer.code, answer.out.split()[0]) == (0, "carrel")
    assert answer.out.split()[1][0].isdigit()


async def test_help_loads_nothing_heavy() -> None:
    ended = await carrel("--help", PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.rsplit("|", 1)[-1].strip() for line in ended.err.splitlines()}
    assert not loaded & {"grpc", "sqlalchemy", "asyncpg", "nats", "duckdb", "cryptography"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["agents", "--tenant", "acme", "--user", "ada"],
        ["agents", "--token", "anything"],
        ["token", "--tenant", "acme", "--user", "ada"],
        ["token", "--tenant", "acme", "--user", "ada", "--context"],
    ],
)
async def test_without_a_system_one_sentence_says_how_to_start_it(arguments: list[str], tmp_path: Path) -> None:
    ended = await carrel(*arguments, data_dir=tmp_path / "none")
    assert (ended.code, ended.out) == (1, "")
    (sentence,) = ended.err.splitlines()
    assert "`carrel up`" in sentence and sentence.endswith("[NOT_RUNNING]")


async def test_without_a_system_json_says_so_too(tmp_path: Path) -> None:
    ended = await carrel("runs", "list", "--token", "anything", "--json", data_dir=tmp_path)
    assert ended.code == 1
    assert ended.document["error"]["reason"] == "NOT_RUNNING"
    assert "--data-dir" in (await carrel("agents", "--token", "x", "--data-dir", str(tmp_path))).err


async def test_a_gateway_that_is_not_there_is_named_with_its_address() -> None:
    ended = await carrel("agents", "--token", "anything", "--address", "127.0.0.1:1")
    assert ended.code == 1
    (sentence,) = ended.err.splitlines()
    assert "No Carrel answers at 127.0.0.1:1" in sentence and "[UNAVAILABLE]" in sentence


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fly"], "fly"),
        (["agents"], "--tenant"),
        (["agents", "--tenant", "acme"], "--user"),
        (["agents", "--tenant", "acme", "--user", "ada", "--token", "x"], "--token"),
        (["agents", "--tenant", "none", "--user", "ada"], "placeholder"),
        (["agents", "--token", "x", "--address", "ftp://somewhere"], "--address"),
        (["run"], "agent"),
        (["run", "echo", "--token", "x", "--address", "127.0.0.1:1", "--input", "{"], "--input"),
        (["run", "echo", "--token", "x", "--address", "127.0.0.1:1", "--input", "[1]"], "JSON object"),
        (["events", "--token", "x", "--address", "127.0.0.1:1", "--after", "seven"], "EPOCH-OFFSET"),
        (["token", "--tenant", "acme", "--user", "ada", "--context", "--api-key"], "--api-key"),
        (["token", "--tenant", "acme", "--user", "ada", "--context", "--lifetime", "9"], "--lifetime"),
        (["token", "--tenant", "acme", "--user", "ada", "--lifetime", "0"], "--lifetime"),
        (["up", "--port-base", "-1"], "--port-base"),
    ],
)
async def test_wrong_usage_is_refused_with_2_before_anything_happens(arguments: list[str], word: str) -> None:
    ended = await carrel(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert word in ended.err


async def test_wrong_usage_with_json_is_json() -> None:
    ended = await carrel("runs", "list", "--tenant", "acme", "--json")
    assert ended.code == 2
    assert json.loads(ended.out)["error"]["reason"] == "USAGE"


async def test_down_where_nothing_runs_says_so(tmp_path: Path) -> None:
    ended = await carrel("down", data_dir=tmp_path)
    assert (ended.code, ended.out) == (0, f"Nothing runs on {tmp_path}.\n")


async def test_doctor_says_how_far_agents_in_processes_are_shut_in(tmp_path: Path) -> None:
    ended = await carrel("doctor", "--json", "--port-base", "0", data_dir=tmp_path)
    (check,) = [check for check in ended.document["checks"] if check["name"] == "agent processes"]
    assert check["level"] == ("ok" if kernel_confines() else "warn")
    assert ("Landlock" in check["finding"]) == kernel_confines() != bool(check["advice"])


async def test_doctor_says_of_a_foreign_folder_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    ended = await carrel("doctor", "--json", "--port-base", "0", data_dir=tmp_path)
    (failed,) = [check for check in ended.document["checks"] if check["level"] == "fail"]
    assert (ended.code, failed["name"]) == (1, "data folder")
    assert failed["advice"]
    assert os.listdir(tmp_path) == ["thesis.txt"]
