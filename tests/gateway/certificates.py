"""Certificates for tests: made on the spot, good for this machine alone."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """One that signs certificates of services, and of nobody who does not come here."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self.file = folder / f"{name}.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key, 1.0)
        made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(self, *services: str, days: float = 1.0, file: str = "") -> dict[str, Path]:
        """The settings of a service with a new certificate of these names, good for so many days; less than 0 is over."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, services[0])])
        names = x509.SubjectAlternativeName([x509.DNSName(service) for service in services])
        made = _builder(subject, self._name, key, days).add_extension(names, False).sign(self._key, hashes.SHA256())
        stem = self.folder / (file or services[0])
        stem.with_suffix(".key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        stem.with_suffix(".crt").write_bytes(made.public_bytes(Encoding.PEM))
        return {
            "peer_ca_file": self.file,
            "peer_cert_file": stem.with_suffix(".crt"),
            "peer_key_file": stem.with_suffix(".key"),
        }


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


class Certificate:
    """A self-signed one of this machine, in two files; a client that trusts it trusts nobody else."""

    def __init__(self, folder: Path) -> None:
        self.cert_file, self.key_file = folder / "tls.crt", folder / "tls.key"
        self.renew()

    def renew(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "carrel of a test")])
        certificate = (
            _builder(name, name, key, 1.0)
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
