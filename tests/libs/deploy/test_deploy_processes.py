"""The commands of docker-compose.yml as real processes on servers run by others: all serve, and know each other."""

from __future__ import annotations

import asyncio
import contextlib
import re
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest

from carrel_chassis.stack import SERVICES
from carrel_chassis.stack.development import development_token
from carrel_chassis.stack.health import until_serving
from carrel_chassis.stack.nats import find_server
from carrel_chassis.stack.ports import free_ports
from tests.libs.deploy.compose_file import ROOT, Here, compose
from tests.libs.deploy.conftest import Answer, deploy, run

CONTAINERS: dict[str, dict[str, Any]] = compose()["services"]
_START_SECONDS = 60.0
_FIRST_ANSWER_SECONDS = 15.0


def here(secrets: Path, corpora: Path) -> Here:
    """A free port for each that the file names."""
    listens = [
        value.rpartition(":")[2]
        for service in SERVICES
        for variable, value in CONTAINERS[service.name]["environment"].items()
        if variable.endswith("LISTEN")
    ]
    return Here(dict(zip(listens, free_ports(len(listens)), strict=True)), secrets, corpora)


@asynccontextmanager
async def process(name: str, where: Here, logs: Path) -> AsyncIterator[Process]:
    """The service's process, as its container would run it; killed at the end if it still runs."""
    container = CONTAINERS[name]
    with (logs / f"{name}.log").open("wb") as log:
        started = await asyncio.create_subprocess_exec(
            *where.command(container["command"]),
            env=where.environment(container),
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
        )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


async def until_healthy(name: str, started: Process, where: Here, logs: Path) -> None:
    """Waits for the answer SERVING, then asks by the health check of the file, as Docker does."""
    _, *check = CONTAINERS[name]["healthcheck"]["test"]
    environment = where.environment(CONTAINERS[name])

    def still_runs() -> None:
        assert started.returncode is None, (logs / f"{name}.log").read_text()

    async with asyncio.timeout(_START_SECONDS):
        await until_serving(where.text(check[-1]), environment, still_runs)
    assert await run(*where.command(check), **environment) == Answer(0, "")


async def test_the_commands_of_the_file_serve_and_know_each_other(prepared: Path, tmp_path: Path) -> None:
    where = here(prepared, tmp_path / "corpora")
    async with contextlib.AsyncExitStack() as stack:
        running = {
            service.name: await stack.enter_async_context(process(service.name, where, tmp_path))
            for service in SERVICES
        }
        await asyncio.gather(*(until_healthy(name, it, where, tmp_path) for name, it in running.items()))
        await check_a_user(prepared, where)
        for started in running.values():
            started.terminate()
        codes = {name: await started.wait() for name, started in running.items()}
        assert codes == dict.fromkeys(running, 0)
    logs = "".join((tmp_path / f"{name}.log").read_text() for name in running)
    assert "for-the-bus" not in logs and '"bus.error"' not in logs


async def check_a_user(prepared: Path, where: Here) -> None:
    """A call with an API key and one with a development token pass the gateway and reach what is behind it."""
    made = await deploy(
        *("api-key", "--to", str(prepared), "--context", where.text("context:7410")),
        *("--tenant", "acme", "--user", "ada"),
    )
    assert made.code == 0, made.said
    async with httpx.AsyncClient(base_url=f"http://{where.text('gateway:7401')}") as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/v1/runs")).status_code == 401
        for token in (made.said.strip(), development_token(prepared, "acme", "ada")):
            authorization = {"Authorization": f"Bearer {token}"}
            for page in ("/v1/runs", "/v1/corpora", "/v1/events/page", "/v1/tools"):
                answer = await answered(client, page, authorization)
                assert answer.status_code == 200, (page, answer.text)


async def answered(client: httpx.AsyncClient, page: str, headers: dict[str, str]) -> httpx.Response:
    """The first answer that is not 503: in its first moment a service may not yet know what has been revoked."""
    async with asyncio.timeout(_FIRST_ANSWER_SECONDS):
        while (answer := await client.get(page, headers=headers)).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        return answer


async def test_the_probe_says_who_does_not_serve() -> None:
    answer = await run(
        *Here({"7410": free_ports(1)[0]}, Path(), Path()).command(
            ["python", "-m", "carrel_chassis.probe", "127.0.0.1:7410"]
        )
    )
    assert answer.code == 1 and "does not serve (" in answer.said


@pytest.mark.parametrize("password", ["0123456789", "12e4", "only-letters"])
async def test_nats_takes_any_password_by_the_file_that_compose_mounts(password: str, tmp_path: Path) -> None:
    port, monitor = free_ports(2)
    text = (ROOT / "deploy" / "nats.conf").read_text().replace("4222", str(port)).replace("8222", str(monitor))
    (tmp_path / "nats.conf").write_text(text)
    given = CONTAINERS["nats"]["environment"]["CARREL_NATS_PASSWORD"]
    value = re.sub(r"\$\{.*\}", password, given)
    server = await asyncio.create_subprocess_exec(
        *(find_server(), "--config", str(tmp_path / "nats.conf")),
        env={"CARREL_NATS_PASSWORD": value},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        client = await nats.connect(
            f"nats://carrel:{password}@127.0.0.1:{port}", max_reconnect_attempts=100, reconnect_time_wait=0.05
        )
        assert client.max_payload == 8 * 1024 * 1024
        await client.close()
    finally:
        server.kill()
        await server.wait()
