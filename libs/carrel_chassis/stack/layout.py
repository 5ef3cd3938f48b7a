"""The map of the system on one machine: which processes there are, where they listen, what each is told."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from carrel_chassis.stack.certificates import certificate_files
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.keys import JWT_AUDIENCE, JWT_ISSUER
from carrel_chassis.stack.ports import HOST, free_ports


@dataclass(frozen=True)
class Service:
    """One process of Carrel."""

    name: str
    module: str
    identity: str
    """The name of its key: what it signs as when it calls another service."""
    schema: str | None = None
    """Its schema, and whether it has migrations at all."""
    database_roles: Mapping[str, str] = field(default_factory=dict)
    """Setting → the role whose URL it holds."""


CONTEXT = Service(
    "context",
    "carrel_context",
    "context",
    "context",
    {
        "DATABASE_URL": "carrel_context",
        "ADMIN_DATABASE_URL": "carrel_context_admin",
        "REVOCATIONS_DATABASE_URL": "carrel_context_revocations",
    },
)
EVENTS = Service(
    "events",
    "carrel_events",
    "event-stream",
    "events",
    {
        "DATABASE_URL": "carrel_events",
        "WRITER_DATABASE_URL": "carrel_events_writer",
        "RETENTION_DATABASE_URL": "carrel_events_retention",
    },
)
TOOLS = Service(
    "tools",
    "carrel_tools",
    "tool-dispatch",
    "tools",
    {
        "DATABASE_URL": "carrel_tools",
        "ADMIN_DATABASE_URL": "carrel_tools_admin",
        "KEEPER_DATABASE_URL": "carrel_tools_keeper",
    },
)
EXECUTION = Service(
    "execution",
    "carrel_execution",
    "agent-execution",
    "execution",
    {
        "DATABASE_URL": "carrel_execution",
        "RUNNER_DATABASE_URL": "carrel_execution_runner",
        "STATISTICS_DATABASE_URL": "carrel_execution_statistics",
        "RETENTION_DATABASE_URL": "carrel_execution_retention",
    },
)
GATEWAY = Service("gateway", "carrel_gateway", "gateway")
SERVICES = (CONTEXT, EVENTS, TOOLS, EXECUTION, GATEWAY)

PORT_OFFSETS: Mapping[str, int] = {
    "gateway": 0,
    "gateway_http": 1,
    "context": 10,
    "execution": 11,
    "tools": 12,
    "events": 13,
    "postgres": 20,
    "nats": 21,
    "metrics.gateway": 30,
    "metrics.context": 31,
    "metrics.execution": 32,
    "metrics.tools": 33,
    "metrics.events": 34,
}
_HIGHEST_PORT = 65_535
# What a process needs of ours to run at all; everything else (cloud keys, proxies, PG*) stays out.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
_HANDED_ON = {
    "execution": ("CARREL_AGENT_MODULES", "CARREL_ISOLATED_AGENTS", "CARREL_MODELS_FILE", "CARREL_PRICES_FILE"),
    "tools": ("CARREL_TOOL_MODULES", "CARREL_HTTP_HOSTS"),
}
"""What whoever starts the system says to one service by the environment; no other sees it."""


def choose_ports(base: int) -> dict[str, int]:
    """A port for each name: at its offset from the base, or any free one where the base is 0."""
    if base == 0:
        return dict(zip(PORT_OFFSETS, free_ports(len(PORT_OFFSETS)), strict=True))
    ports = {name: base + offset for name, offset in PORT_OFFSETS.items()}
    if base < 0 or max(ports.values()) > _HIGHEST_PORT:
        raise StackError(f"The base port {base} is out of range: choose one from 1 to {_HIGHEST_PORT - 34}.")
    return ports


def select(services: Sequence[Service], only: tuple[str, ...] | None) -> tuple[Service, ...]:
    """The services to start; StackError for a name that is none."""
    names = [service.name for service in services]
    for name in only or ():
        if name not in names:
            raise StackError(f"There is no service {name!r}: choose from {', '.join(names)}.")
    return tuple(service for service in services if only is None or service.name in only)


def own_ports(service: Service) -> tuple[str, ...]:
    """The names of the ports on which the service listens."""
    http = ("gateway_http",) if service.name == "gateway" else ()
    return (service.name, *http, f"metrics.{service.name}")


@dataclass(frozen=True)
class Surroundings:
    """Where everything is, as far as a service must be told."""

    ports: Mapping[str, int]
    keys: Path
    corpora: Path
    database_urls: Mapping[str, str]
    """By role."""
    nats_url: str
    certificates: Path | None
    """For TLS between the services; None leaves their lines in the open."""
    extra: Mapping[str, str]

    def environment(self, service: Service) -> dict[str, str]:
        """The whole environment of the service's process; nothing of another service's secrets is in it."""
        settings = (
            self._common(service) | certificate_files(self.certificates, service.identity) | self._special(service)
        )
        for setting, role in service.database_roles.items():
            settings[setting] = self.database_urls[role]
        names = (*_INHERITED, *_HANDED_ON.get(service.name, ()))
        inherited = {name: os.environ[name] for name in names if name in os.environ}
        named = {f"CARREL_{name}": value for name, value in settings.items()}
        return {**inherited, "PYTHONUNBUFFERED": "1", **named, **self.extra}

    def address(self, name: str) -> str:
        """`host:port` of a name in `PORT_OFFSETS`."""
        return f"{HOST}:{self.ports[name]}"

    def _common(self, service: Service) -> dict[str, str]:
        return {
            "LISTEN": self.address(service.name),
            "METRICS_LISTEN": self.address(f"metrics.{service.name}"),
            "NATS_URL": self.nats_url,
            "CONTEXT_ADDRESS": self.address("context"),
            "EXECUTION_ADDRESS": self.address("execution"),
            "TOOLS_ADDRESS": self.address("tools"),
            "EVENTS_ADDRESS": self.address("events"),
            "SERVICE_KEY_FILE": str(self.keys / f"{service.identity}.key"),
            "SERVICE_TRUST_FILE": str(self.keys / "trust.json"),
        }

    def _special(self, service: Service) -> dict[str, str]:
        match service.name:
            case "context":
                return {"MASTER_KEY_FILE": str(self.keys / "master.key")}
            case "execution":
                return {"STUCK_FILE": str(self.keys.parent / "stuck-agents")}
            case "tools":
                return {"CORPUS_DIR": str(self.corpora), "CORPUS_KEY_FILE": str(self.keys / "corpus.key")}
            case "gateway":
                return {
                    "HTTP_LISTEN": self.address("gateway_http"),
                    "JWKS_FILE": str(self.keys / "jwks.json"),
                    "JWT_ISSUER": JWT_ISSUER,
                    "JWT_AUDIENCE": JWT_AUDIENCE,
                }
            case _:
                return {}
