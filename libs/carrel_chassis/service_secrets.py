"""The folder of secrets of one service, in the shape that `CARREL_SECRETS_DIR` reads: what is in it, and how it is written.

One file per setting, named like the variable in lower case; beside them the key files that some of these name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from carrel_chassis.stack.certificates import certificate_files
from carrel_chassis.stack.files import make_private_folder, write_private
from carrel_chassis.stack.keys import JWT_AUDIENCE, JWT_ISSUER
from carrel_chassis.stack.layout import Service

_ON_THE_BUS = ("context", "events", "execution", "tools")
"""The services that connect to NATS; the gateway has no use for its password."""


@dataclass(frozen=True)
class Owner:
    """Who may read what is written, where root writes it for somebody else."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Secrets:
    """All secrets of a system; `of` picks those of one service."""

    keys: Path
    """The folder that `stack.keys.ensure_keys` has filled."""
    database_urls: Mapping[str, str]
    """By role."""
    nats_url: str
    dev_issuer: bool
    """Whether the gateway believes the tokens that can be made from the key in `keys`."""
    mounted_at: Path
    """Where the services see the folder that holds theirs."""
    certificates: Path | None = None
    """The folder that `stack.certificates.ensure_certificates` has filled; None leaves the lines between services in the open."""

    def of(self, service: Service) -> dict[str, str]:
        """The files of the service's folder, by name; nothing that another service alone needs is among them."""
        files = {
            **self._key(service, "service_key_file", "service.key", f"{service.identity}.key"),
            **self._key(service, "service_trust_file", "trust.json", "trust.json"),
        }
        for setting, role in service.database_roles.items():
            files[f"carrel_{setting.lower()}"] = self.database_urls[role]
        if service.name in _ON_THE_BUS:
            files["carrel_nats_url"] = self.nats_url
        return files | self._certificate(service) | self._special(service)

    def _certificate(self, service: Service) -> dict[str, str]:
        """Copies of its certificate, under the same names for each service."""
        found = certificate_files(self.certificates, service.identity)
        names = {"PEER_CA_FILE": "ca.crt", "PEER_CERT_FILE": "peer.crt", "PEER_KEY_FILE": "peer.key"}
        copies = [self._copy(service, setting.lower(), names[setting], Path(file)) for setting, file in found.items()]
        return {name: text for copy in copies for name, text in copy.items()}

    def _special(self, service: Service) -> dict[str, str]:
        if service.name == "context":
            return self._key(service, "master_key_file", "master.key", "master.key")
        if service.name == "tools":
            return self._key(service, "corpus_key_file", "corpus.key", "corpus.key")
        if service.name == "gateway" and self.dev_issuer:
            issuer = {"carrel_jwt_issuer": JWT_ISSUER, "carrel_jwt_audience": JWT_AUDIENCE}
            return {**self._key(service, "jwks_file", "jwks.json", "jwks.json"), **issuer}
        return {}

    def _key(self, service: Service, setting: str, name: str, source: str) -> dict[str, str]:
        return self._copy(service, setting, name, self.keys / source)

    def _copy(self, service: Service, setting: str, name: str, source: Path) -> dict[str, str]:
        """A copy of a file, and the setting that tells the service where it sees it."""
        return {
            name: source.read_text(),
            f"carrel_{setting}": str(self.mounted_at / service.name / name),
        }


def write_folder(folder: Path, files: Mapping[str, str], owner: Owner | None) -> None:
    """Makes the folder hold these files and no others, for its owner alone; a file that is right stays untouched."""
    make_private_folder(folder)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            write_private(path, text)
        path.chmod(0o600)
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)
    if owner is not None:
        os.chown(folder, owner.uid, owner.gid)
