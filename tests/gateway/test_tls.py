"""TLS at the edge: both faces with one certificate, and a new one taken up without a restart."""

from __future__ import annotations

import os
import ssl
from contextlib import aclosing
from pathlib import Path

import grpc
import httpx
import pytest

from carrel import Client
from carrel.errors import Unavailable
from carrel_chassis.probe import state_of
from carrel_gateway.tls import EdgeTls
from tests.events.desk import Run, thoughts
from tests.gateway.certificates import Certificate
from tests.gateway.edge import replica
from tests.support.expect import eventually
from tests.support.system import Person, System


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path)


def client(address: str, person: Person, pem: bytes) -> Client:
    return Client(address, person.token, credentials=grpc.ssl_channel_credentials(pem), call_seconds=3)


async def https_answers(address: str, person: Person, pem: bytes) -> bool:
    context = ssl.create_default_context(cadata=pem.decode())
    headers = {"authorization": f"Bearer {person.token}"}
    async with httpx.AsyncClient(verify=context, headers=headers) as http:
        try:
            return (await http.get(f"https://{address}/v1/runs")).status_code == 200
        except httpx.ConnectError:
            return False


async def grpc_answers(address: str, person: Person, pem: bytes) -> bool:
    async with client(address, person, pem) as carrel:
        try:
            return bool(await carrel.list_agents())
        except Unavailable:
            return False


async def test_a_new_certificate_is_taken_up_and_open_streams_go_on(
    system: System, ada: Person, certificate: Certificate
) -> None:
    run = await Run.of(system, ada)
    await run.append(*thoughts(1))
    async with replica(system, **certificate.settings) as gateway:
        first = certificate.pem
        assert await https_answers(gateway.http_address, ada, first)
        async with client(gateway.address, ada, first) as carrel, aclosing(carrel.subscribe()) as events:
            await anext(events)
            certificate.renew()
            second = certificate.pem
            await eventually(lambda: grpc_answers(gateway.address, ada, second))
            await eventually(lambda: https_answers(gateway.http_address, ada, second))
            assert not await https_answers(gateway.http_address, ada, first)
            await run.append(*thoughts(1))
            assert (await anext(events)).cursor.offset == 2


async def test_a_face_with_tls_takes_nothing_in_the_open(system: System, ada: Person, certificate: Certificate) -> None:
    async with replica(system, **certificate.settings) as gateway:
        async with Client(gateway.address, ada.token, call_seconds=1) as carrel:
            with pytest.raises(Unavailable):
                await carrel.list_agents()
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.HTTPError):
                await http.get(f"http://{gateway.http_address}/healthz")


async def test_a_change_that_does_not_fit_together_changes_nothing(certificate: Certificate) -> None:
    tls = EdgeTls(certificate.cert_file, certificate.key_file)
    before = tls._pair
    key = certificate.key_file.read_bytes()
    certificate.renew()
    certificate.key_file.write_bytes(key)
    await tls.look()
    assert tls._pair == before
    os.unlink(certificate.cert_file)
    await tls.look()
    assert tls._pair == before
    certificate.renew()
    await tls.look()
    assert tls._pair != before


def test_a_certificate_that_cannot_be_used_is_said_in_one_sentence(certificate: Certificate) -> None:
    certificate.cert_file.write_text("no certificate")
    with pytest.raises(OSError, match="TLS cannot be set up"):
        EdgeTls(certificate.cert_file, certificate.key_file)


async def test_the_probe_asks_a_gateway_with_tls(system: System, certificate: Certificate) -> None:
    """As its container's health check does: with the settings of the gateway and nothing else."""
    async with replica(system, **certificate.settings) as gateway:
        settings = {"CARREL_HTTP_LISTEN": gateway.http_address, "CARREL_TLS_CERT_FILE": str(certificate.cert_file)}
        assert await state_of(gateway.address, 5.0, settings) == "SERVING"
        assert await state_of(gateway.address, 2.0, {"CARREL_HTTP_LISTEN": gateway.http_address}) != "SERVING"
