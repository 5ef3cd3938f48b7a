"""docker-compose.yml as the tests read it: what it says of each of Carrel's processes, and that process on this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "docker-compose.yml"
_ADDRESS = re.compile(r"^(?P<host>[a-z0-9.]+):(?P<port>\d+)$")


def compose() -> dict[str, Any]:
    """The file, its anchors resolved and its variables as they stand."""
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


@dataclass(frozen=True)
class Here:
    """Where on this machine the containers' addresses and folders are."""

    ports: Mapping[str, int]
    """By a port of the file; no two containers use the same."""
    secrets: Path
    corpora: Path

    def command(self, words: list[str]) -> list[str]:
        """A command of the file with our Python, and with the address that it may name."""
        return [sys.executable if word == "python" else self.text(word) for word in words]

    def text(self, value: str) -> str:
        """An address or a folder of the file; anything else as it is."""
        if found := _ADDRESS.match(value):
            return f"127.0.0.1:{self.ports[found['port']]}"
        if value.startswith("/secrets/"):
            return str(self.secrets / value.removeprefix("/secrets/"))
        return str(self.corpora) if value == "/corpora" else value

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The whole environment of the service's process: what the file says and what the image says, nothing of ours."""
        return {"PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"} | {
            name: self.text(value) for name, value in service["environment"].items()
        }
