"""TLS at the edge: both faces with one certificate, and a new one taken up without a restart."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from contextlib import aclosing
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from carrel import Client
from carrel.errors import Unavailable
from carrel_gateway.tls import EdgeTls
from tests.events.desk import Run, thoughts
from tests.gateway.edge import replica
from tests.support.expect import eventually
from tests.support.system import Person, System


class Certificate:
    """A self-signed one of this machine, in two files; a client that trusts it trusts nobody else."""

    def __init__(self, folder: Path) -> None:
        self.cert_file, self.key_file = folder / "tls.crt", folder / "tls.key"
        self.renew()

    def renew(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "carrel of a test")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(key, hashes.SHA256())
        )
        self.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        self.pem = self.cert_file.read_bytes()

    @property
    def settings(self) -> dict[str, Path]:
        return {"tls_cert_file": self.cert_file, "tls_key_file": self.key_file}


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
