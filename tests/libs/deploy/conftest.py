"""A PostgreSQL and a NATS that are none of Carrel's business, and a folder that was prepared for them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from carrel_chassis.deploy import main
from carrel_chassis.stack.data_folder import DataFolder
from carrel_chassis.stack.nats import EmbeddedNats
from carrel_chassis.stack.ports import free_ports
from carrel_chassis.stack.postgres import EmbeddedPostgres
from tests.libs.deploy.compose_file import compose


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    said: str


async def run(*command: str, **environment: str) -> Answer:
    """Runs a command to its end, in an environment of its own."""
    clean = {"PATH": os.environ["PATH"], **environment}
    process = await asyncio.create_subprocess_exec(
        *command, env=clean, stdout=PIPE, stderr=asyncio.subprocess.STDOUT, cwd="/"
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return Answer(process.returncode, output.decode())


async def deploy(*words: str) -> Answer:
    """Calls the operator's command, in a thread of this process: a process each would be most of the tests' time."""

    def call() -> Answer:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = main(list(words))
            except SystemExit as end:
                code = int(str(end.code))
        return Answer(code, said.getvalue())

    return await asyncio.to_thread(call)


@dataclass(frozen=True)
class External:
    """Two servers run by others."""

    postgres_url: str
    nats_url: str

    async def prepare(self, folder: Path, *options: str) -> Answer:
        """Calls `prepare` with the two URLs; an option that comes again wins."""
        urls = ("--postgres-url", self.postgres_url, "--nats-url", self.nats_url)
        return await deploy("prepare", "--to", str(folder), *urls, *options)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def external() -> AsyncIterator[External]:
    """Fresh servers: no role and no database of Carrel is there."""
    path = Path(tempfile.mkdtemp(prefix="carrel-test-"))
    folder = DataFolder.open(path)
    postgres_port, nats_port = free_ports(2)
    postgres = EmbeddedPostgres(folder, postgres_port, "admins", fast=True)
    nats = EmbeddedNats(folder, nats_port, "for-the-bus")
    try:
        await asyncio.gather(postgres.start(), nats.start())
        yield External(postgres.server.admin_url, nats.url)
    finally:
        await asyncio.gather(postgres.stop(), nats.stop())
        folder.close()
        shutil.rmtree(path, ignore_errors=True)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def prepared(external: External) -> AsyncIterator[Path]:
    """A folder that was prepared as docker-compose.yml does it, with the development issuer; tests leave it as it is."""
    path = Path(tempfile.mkdtemp(prefix="carrel-test-"))
    _, *words = compose()["services"]["prepare"]["command"]
    urls = {"CARREL_POSTGRES_ADMIN_URL": external.postgres_url, "CARREL_NATS_URL": external.nats_url}
    command = [str(path) if word == "/secrets" else word for word in words]
    answer = await run(sys.executable, *command, CARREL_DEV_ISSUER="1", **urls)
    assert answer.code == 0, answer.said
    yield path
    shutil.rmtree(path, ignore_errors=True)
