"""A PostgreSQL and a NATS that are none of Carrel's business, and a folder that was prepared for them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from carrel_chassis.stack.data_folder import DataFolder
from carrel_chassis.stack.nats import EmbeddedNats
from carrel_chassis.stack.ports import free_ports
from carrel_chassis.stack.postgres import EmbeddedPostgres


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


@dataclass(frozen=True)
class External:
    """Two servers run by others."""

    postgres_url: str
    nats_url: str

    async def prepare(self, folder: Path, *options: str, **changes: str) -> Answer:
        """Calls `prepare` as an operator does, the URLs in its environment."""
        urls = {"CARREL_POSTGRES_ADMIN_URL": self.postgres_url, "CARREL_NATS_URL": self.nats_url, **changes}
        return await deploy("prepare", "--to", str(folder), *options, **urls)


async def deploy(*words: str, **environment: str) -> Answer:
    """Calls the operator's command."""
    return await run(sys.executable, "-m", "carrel_chassis.deploy", *words, **environment)


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
    """A folder that was prepared for the servers, with the development issuer; tests leave it as it is."""
    path = Path(tempfile.mkdtemp(prefix="carrel-test-"))
    answer = await external.prepare(path, "--dev-issuer")
    assert answer.code == 0, answer.said
    yield path
    shutil.rmtree(path, ignore_errors=True)
