"""Starting, stopping and dying: what is there while the launcher lives, and that nothing is left after."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import asyncpg
import nats
import psutil
import pytest
from stack_support import ROOT, eventually, launcher, mode, processes_of

from carrel_chassis.stack import Service, Stack, StackError, StackSettings, read_stack, stop_stack
from carrel_chassis.stack.ports import free_ports

FAKES = tuple(Service(name, "tests.libs.stack.fake_service", name) for name in ("context", "gateway"))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")


def engines_only(folder: Path, **other: object) -> StackSettings:
    return StackSettings(folder, fast=True, only=(), **other)  # type: ignore[arg-type]


def with_fakes(folder: Path, **environment: str) -> Stack:
    settings = StackSettings(folder, fast=True, service_environment={"PYTHONPATH": str(ROOT), **environment})
    return Stack(settings, services=FAKES)


async def test_stopping_leaves_no_process_and_no_record(folder: Path) -> None:
    async with Stack(engines_only(folder)) as stack:
        assert set(stack.pids()) == {"postgres", "nats"}
        assert read_stack(folder) == stack.addresses
        assert processes_of(folder)
    assert processes_of(folder) == []
    assert read_stack(folder) is None
    assert not (folder / "stack.json").exists()


async def test_a_launcher_killed_at_once_takes_everything_along_and_the_next_one_starts(folder: Path) -> None:
    with launcher(folder, services=("context", "gateway")) as process:
        assert len(processes_of(folder)) > 6, "the server, its own processes, NATS and the services"
        process.kill()
        process.wait()
        await eventually(lambda: processes_of(folder) == [], seconds=5)
    assert (folder / "stack.json").exists(), "the stale record is part of the test"
    assert read_stack(folder) is None
    async with Stack(engines_only(folder)) as stack:
        assert set(stack.pids()) == {"postgres", "nats"}


async def test_the_next_launcher_waits_for_what_a_killed_one_left(folder: Path) -> None:
    base = free_ports(1)[0]
    with launcher(folder, port_base=base) as process:
        process.kill()
        process.wait()
    async with Stack(engines_only(folder, port_base=base)) as stack:
        assert set(stack.pids()) == {"postgres", "nats"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_launcher_that_is_asked_to_stop_stops_in_order(folder: Path, number: signal.Signals) -> None:
    with launcher(folder) as process:
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert processes_of(folder) == []
        assert not (folder / "stack.json").exists()


async def test_a_start_that_is_cancelled_leaves_nothing_running(folder: Path) -> None:
    start = asyncio.create_task(Stack(engines_only(folder)).start())
    await eventually(lambda: processes_of(folder) != [])
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert processes_of(folder) == []


async def test_a_stop_that_is_cancelled_stops_all_the_same(folder: Path) -> None:
    stack = Stack(engines_only(folder))
    await stack.start()
    stop = asyncio.create_task(stack.stop())
    await asyncio.sleep(0)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert processes_of(folder) == []


async def test_down_stops_the_launcher_of_the_folder(folder: Path) -> None:
    with launcher(folder) as process:
        assert read_stack(folder) is not None
        assert await asyncio.to_thread(stop_stack, folder)
        await asyncio.to_thread(process.wait, 5)
        assert processes_of(folder) == []
    assert not stop_stack(folder)


async def test_the_data_survives_a_restart_and_so_do_the_passwords(folder: Path) -> None:
    async with Stack(engines_only(folder)) as stack:
        await run_as_owner(stack, "CREATE TABLE context.kept (word text)", "INSERT INTO context.kept VALUES ('here')")
    secrets = (folder / "secrets.json").read_text()
    async with Stack(engines_only(folder)) as stack:
        assert await run_as_owner(stack, "SELECT word FROM context.kept") == "here"
    assert (folder / "secrets.json").read_text() == secrets


async def run_as_owner(stack: Stack, *statements: str) -> object:
    connection = await asyncpg.connect(stack.database_url("carrel_migrator").replace("+asyncpg", ""))
    try:
        values = [await connection.fetchval(statement) for statement in statements]
    finally:
        await connection.close()
    return values[-1]


async def test_engines_that_are_killed_come_back_at_the_same_address(folder: Path) -> None:
    died: list[tuple[str, int]] = []
    async with Stack(engines_only(folder), on_exit=lambda name, code: died.append((name, code))) as stack:
        before, addresses = stack.pids(), dict(stack.addresses)
        stack.kill("postgres")
        stack.kill("nats")
        await eventually(lambda: {"postgres", "nats"} <= {name for name, _ in died})
        await eventually(lambda: stack.pids().keys() == before.keys())
        await until_both_answer(stack)
        assert all(stack.pids()[name] != before[name] for name in before)
        assert stack.addresses == addresses
    assert ("nats", -signal.SIGKILL) in died
    assert processes_of(folder) == []


async def until_both_answer(stack: Stack) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                assert await run_as_owner(stack, "SELECT 1") == 1
                connection = await nats.connect(stack.nats_url, max_reconnect_attempts=1, reconnect_time_wait=0.05)
            except (OSError, asyncpg.PostgresError, nats.errors.Error):
                await asyncio.sleep(0.05)
                continue
            await connection.close()
            return


async def test_services_become_ready_and_are_started_again_when_killed(folder: Path) -> None:
    async with with_fakes(folder) as stack:
        await stack.ready(20)
        first = stack.pids()["context"]
        stack.kill("context")
        await eventually(lambda: stack.pids().get("context", first) != first)
        await stack.ready(20)
        assert set(stack.pids()) == {"postgres", "nats", "context", "gateway"}
        assert {"context", "gateway", "gateway_http", "metrics.context", "postgres", "nats"} <= stack.addresses.keys()
    assert processes_of(folder) == []


async def test_a_service_that_keeps_dying_is_reported_with_its_last_words(folder: Path) -> None:
    async with with_fakes(folder, FAKE_DIES="1") as stack:
        with pytest.raises(StackError, match=r"dies at its start .*nothing to live for"):
            await stack.ready(20)


async def test_a_service_that_does_not_answer_is_named_after_the_timeout(folder: Path) -> None:
    async with with_fakes(folder) as stack:
        await stack.ready(20)
        stack.kill("gateway", signal.SIGSTOP)
        with pytest.raises(StackError, match=r"Not serving after 1 s: gateway \("):
            await stack.ready(1)
        stack.kill("gateway", signal.SIGCONT)


async def test_a_start_that_fails_leaves_nothing_running(folder: Path) -> None:
    with pytest.raises(StackError, match="NATS server"):
        await Stack(engines_only(folder, nats_url="nats://127.0.0.1:1")).start()
    assert processes_of(folder) == []


async def test_children_see_only_the_environment_that_is_theirs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-children")
    async with with_fakes(folder) as stack:
        seen = psutil.Process(stack.pids()["context"])
        await stack.ready(20)
        environment = seen.environ()
        assert "AWS_SECRET_ACCESS_KEY" not in environment
        carrel = {name for name in environment if name.startswith("CARREL_")}
        assert carrel == {name for name in stack.service_environment("context") if name.startswith("CARREL_")}
        assert os.getsid(seen.pid) == seen.pid, "the terminal's Ctrl-C does not reach it"


others_reach_us = pytest.mark.skipif(
    any(not folder.stat().st_mode & 0o001 for folder in Path(sys.prefix).absolute().parents),
    reason="the Python environment lies in a folder that other users cannot enter",
)


@as_root
@others_reach_us
@pytest.mark.parametrize("uid", [1, 4711], ids=["named", "nameless"])
async def test_an_ordinary_user_runs_the_engines(folder: Path, uid: int) -> None:
    python = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin")
    if python is None:
        pytest.skip("no other Python of this version that an ordinary user can reach")
    os.chown(folder, uid, uid)
    packages = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": f"{packages}:{ROOT / 'libs'}",
        "HOME": "/nonexistent",
    }
    drop = ("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups")
    with launcher(folder, *drop, python=python, environment=environment) as process:
        running = processes_of(folder)
        assert len(running) > 3
        assert {one.uids().real for one in running} == {uid}
        process.kill()
        process.wait()
        await eventually(lambda: processes_of(folder) == [], seconds=5)


@as_root
@others_reach_us
async def test_where_user_namespaces_are_not_allowed_root_runs_postgres_as_another_user(folder: Path) -> None:
    async with Stack(engines_only(folder, user_namespaces=False)) as stack:
        assert psutil.Process(stack.pids()["postgres"]).uids().effective != 0
        assert mode(folder / "secrets.json") == 0o600
        assert mode(folder) == 0o710
    async with Stack(engines_only(folder)) as stack:
        assert (folder / "postgres" / "data").stat().st_uid == psutil.Process(stack.pids()["postgres"]).uids().effective
        assert mode(folder) == 0o700


@as_root
async def test_another_user_that_cannot_reach_the_folder_is_told_so(folder: Path) -> None:
    os.chmod(folder, 0o700)
    with pytest.raises(StackError, match="put the data folder and the Python environment where user"):
        await Stack(engines_only(folder / "inner", user_namespaces=False)).start()


async def test_the_version_file_names_the_format_and_the_postgres(folder: Path) -> None:
    async with Stack(engines_only(folder)):
        assert json.loads((folder / "VERSION").read_text()) == {"format": 1, "postgres_major": 18}
