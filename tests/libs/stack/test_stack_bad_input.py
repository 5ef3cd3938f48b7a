"""What cannot work is refused at once, in a sentence that says what to do, and leaves the folder as it was."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from carrel_chassis.stack import Stack, StackError, StackSettings
from carrel_chassis.stack.data_folder import DataFolder
from carrel_chassis.stack.ports import free_ports, release


async def refusal(folder: Path, **other: object) -> str:
    with pytest.raises(StackError) as caught:
        await Stack(StackSettings(folder, fast=True, **{"only": (), **other})).start()  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


async def test_a_foreign_folder_is_left_alone(folder: Path) -> None:
    (folder / "thesis.txt").write_text("mine")
    assert "is not empty and not a Carrel data folder: name an empty or a new folder." in await refusal(folder)
    assert os.listdir(folder) == ["thesis.txt"]


async def test_a_folder_in_use_names_the_process(folder: Path) -> None:
    held = DataFolder.open(folder)
    try:
        assert f"in use by process {os.getpid()}: stop it with `carrel down`" in await refusal(folder)
    finally:
        held.close()


async def test_a_folder_of_another_format_is_refused(folder: Path) -> None:
    (folder / "VERSION").write_text(json.dumps({"format": 7, "postgres_major": 18}))
    assert "has format 7 and this Carrel writes format 1" in await refusal(folder)


async def test_a_folder_with_an_unreadable_version_is_refused(folder: Path) -> None:
    (folder / "VERSION").write_text("18")
    assert "is not readable as a Carrel data folder's" in await refusal(folder)


async def test_a_folder_of_another_postgres_is_refused(folder: Path) -> None:
    (folder / "VERSION").write_text(json.dumps({"format": 1, "postgres_major": 17}))
    assert "was made by PostgreSQL 17 and this machine has PostgreSQL 18" in await refusal(folder)


async def test_a_path_that_is_no_folder_is_refused(folder: Path) -> None:
    (folder / "file").write_text("")
    assert "cannot be used (Not a directory)" in await refusal(folder / "file" / "below")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    os.chown(folder, 4711, 4711)
    assert "belongs to user 4711 and this process runs as root" in await refusal(folder)


async def test_a_port_in_use_is_named_with_its_process(folder: Path) -> None:
    with socket.socket() as taken:
        (port,) = free_ports(1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        sentence = await refusal(folder, port_base=port - 20)
    assert sentence.startswith(f"Port {port} (for postgres) is in use by process {os.getpid()}:")


async def test_a_base_port_out_of_range_is_refused(folder: Path) -> None:
    assert "choose one from 1 to" in await refusal(folder, port_base=65_530)


async def test_a_service_that_does_not_exist_is_refused(folder: Path) -> None:
    with pytest.raises(StackError, match="There is no service 'gatway': choose from context, events"):
        Stack(StackSettings(folder, only=("gatway",)))


async def test_a_postgres_that_does_not_start_is_quoted(folder: Path) -> None:
    async with Stack(StackSettings(folder, fast=True, only=())):
        pass
    with (folder / "postgres" / "data" / "postgresql.conf").open("a") as file:
        file.write("\nshared_bufers = 1\n")
    sentence = await refusal(folder)
    assert sentence.startswith("postgres did not start (FATAL:") and "postgresql.conf" in sentence


async def test_secrets_that_do_not_belong_to_the_data_are_named(folder: Path) -> None:
    async with Stack(StackSettings(folder, fast=True, only=())):
        pass
    (folder / "secrets.json").unlink()
    assert "put back the file that belongs to this folder" in await refusal(folder)


async def test_a_nats_that_does_not_start_is_quoted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = folder / "nats-server"
    fake.write_text("#!/bin/sh\necho 'nats-server: no such luck' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr("carrel_chassis.stack.nats.find_server", lambda: str(fake))
    assert (await refusal(folder / "data")).startswith("nats did not start (nats-server: no such luck): read ")


async def test_external_engines_that_do_not_answer_are_named_without_their_passwords(folder: Path) -> None:
    sentence = await refusal(folder, postgres_url="postgresql://admin:hush@127.0.0.1:1/postgres")
    assert "PostgreSQL at 127.0.0.1:1 could not be prepared" in sentence and "hush" not in sentence
    sentence = await refusal(folder, nats_url="nats://user:hush@127.0.0.1:1")
    assert "does not answer" in sentence and "hush" not in sentence


async def test_an_external_url_of_the_wrong_form_is_refused(folder: Path) -> None:
    assert "is not of the form postgresql://" in await refusal(folder, postgres_url="mysql://root@localhost/x")


def test_two_launchers_that_start_at_once_choose_different_ports() -> None:
    [port] = free_ports(1)
    ask = f"from carrel_chassis.stack import ports; ports._LOWEST, ports._HIGHEST = {port}, {port + 1}; print(ports.free_ports(1))"

    def elsewhere() -> str:
        ended = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False, timeout=30)
        return ended.stdout.strip() or ended.stderr.splitlines()[-1]

    assert "No free ports are left" in elsewhere()
    release([port])
    assert elsewhere() == f"[{port}]"
