"""An authority of the system's own and a certificate for each of its services, for TLS between them. It knows no connection."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from carrel_chassis.rpc.tls import PeerTls
from carrel_chassis.stack.files import make_private_folder, write_private
from carrel_chassis.stack.keys import IDENTITIES

_FOLDER = "tls"
_SETTINGS = ("PEER_CA_FILE", "PEER_CERT_FILE", "PEER_KEY_FILE")
AUTHORITY = "ca"
AUTHORITY_DAYS = 3650
SERVICE_DAYS = 365
_MADE_ANEW_BELOW = 0.5
"""The share of its life that a certificate must still have: who calls twice in half a year never sees one expire."""
_CLOCKS_DIFFER = datetime.timedelta(hours=1)


def settle_certificates(data_dir: Path, *, wanted: bool) -> Path | None:
    """The folder of certificates for all who speak with each other, in the system's data folder; removed, and None, where none
    are wanted. Raises ValueError when a file there is damaged.
    """
    folder = data_dir / _FOLDER
    if wanted:
        ensure_certificates(folder, IDENTITIES, datetime.datetime.now(datetime.UTC))
        return folder
    if folder.is_dir():
        shutil.rmtree(folder)
    return None


def certificate_files(folder: Path | None, identity: str) -> dict[str, str]:
    """The settings of one of them, without their prefix; none without a folder."""
    if folder is None:
        return {}
    files = (f"{AUTHORITY}.crt", f"{identity}.crt", f"{identity}.key")
    return {setting: str(folder / name) for setting, name in zip(_SETTINGS, files, strict=True)}


def operator_tls(data_dir: Path) -> PeerTls | None:
    """How the operator speaks with the services of a system: by the certificates in its data folder, or, of an authority of somebody's
    own, by those that CARREL_PEER_CA_FILE and its like name. None where there are neither: the services speak in the open.

    Raises OSError when the certificates cannot be used.
    """
    folder = data_dir / _FOLDER
    files = certificate_files(folder if folder.is_dir() else None, "operator")
    named = [os.environ.get(f"CARREL_{name}") or files.get(name) for name in _SETTINGS]
    ca_file, cert_file, key_file = (Path(name) if name else None for name in named)
    if ca_file is None or cert_file is None or key_file is None:
        return None
    return PeerTls(ca_file, cert_file, key_file)


def ensure_certificates(folder: Path, names: Sequence[str], now: datetime.datetime) -> None:
    """Makes `ca.crt` and `<name>.crt` with their `.key`, where one is missing, past half of its life, or not the authority's.

    Raises ValueError when a file there is damaged.
    """
    make_private_folder(folder)
    authority = _kept(folder, AUTHORITY, now) or _store(folder, AUTHORITY, _new_authority(now))
    for name in names:
        found = _kept(folder, name, now)
        if found is None or not _issued(found, authority):
            _store(folder, name, _new_certificate(name, authority, now))


@dataclass(frozen=True)
class _Certificate:
    """A certificate and its private key."""

    shown: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _kept(folder: Path, name: str, now: datetime.datetime) -> _Certificate | None:
    """What is there, if it is whole and good for long enough."""
    files = (folder / f"{name}.crt", folder / f"{name}.key")
    if not all(file.exists() for file in files):
        return None
    try:
        shown = x509.load_pem_x509_certificate(files[0].read_bytes())
        key = load_pem_private_key(files[1].read_bytes(), None)
    except ValueError as error:
        raise ValueError(f"{name}.crt or {name}.key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{name}.key is of another kind than those made here")
    life = shown.not_valid_after_utc - shown.not_valid_before_utc
    long_enough = shown.not_valid_after_utc - now > life * _MADE_ANEW_BELOW
    # A call that was ended between the two files leaves a key without its certificate.
    return _Certificate(shown, key) if long_enough and shown.public_key() == key.public_key() else None


def _store(folder: Path, name: str, made: _Certificate) -> _Certificate:
    key = made.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(folder / f"{name}.key", key.decode())
    write_private(folder / f"{name}.crt", made.shown.public_bytes(Encoding.PEM).decode())
    return made


def _issued(certificate: _Certificate, authority: _Certificate) -> bool:
    try:
        certificate.shown.verify_directly_issued_by(authority.shown)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _new_authority(now: datetime.datetime) -> _Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("carrel")
    builder = _builder(name, name, key, now, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return _Certificate(builder.sign(key, hashes.SHA256()), key)


def _new_certificate(name: str, authority: _Certificate, now: datetime.datetime) -> _Certificate:
    """For both ends of a connection: every service is asked, and asks."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), authority.shown.subject, key, now, SERVICE_DAYS)
    for extension in (
        x509.SubjectAlternativeName([x509.DNSName(name)]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
    ):
        builder = builder.add_extension(extension, critical=False)
    return _Certificate(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
