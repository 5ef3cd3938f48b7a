"""The whole system on one machine: engines, migrations and services as supervised child processes, in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import structlog

from carrel_chassis.stack import layout, ports, roles
from carrel_chassis.stack.certificates import settle_certificates
from carrel_chassis.stack.data_folder import DataFolder
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.health import until_serving
from carrel_chassis.stack.keys import ensure_keys
from carrel_chassis.stack.layout import Service, Surroundings
from carrel_chassis.stack.nats import EmbeddedNats, check_external
from carrel_chassis.stack.peek import Record, read_record, remove_record, write_record
from carrel_chassis.stack.postgres import EmbeddedPostgres
from carrel_chassis.stack.postgres_url import PostgresServer
from carrel_chassis.stack.process import ChildProcess, Command, OnExit
from carrel_chassis.stack.signals import to_the_end, together

log = structlog.get_logger(__name__)

_SERVICE_GRACE_SECONDS = 8.0
_PREVIOUS_SECONDS = 15.0
_HOPELESS_DEATHS = 3
"""A service that died this often before it ever served has a fault that waiting does not mend."""


@dataclass(frozen=True)
class StackSettings:
    """What may differ between two systems on one machine."""

    data_dir: Path
    port_base: int = 0
    """Where the ports begin (see `layout.PORT_OFFSETS`); 0 takes free ones."""
    postgres_url: str | None = None
    """An external server: the URL of a role that may create roles and databases. None runs our own."""
    nats_url: str | None = None
    """An external NATS server. None runs our own."""
    fast: bool = False
    """For tests: no durability."""
    postgres_settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of our own PostgreSQL that differ from those it is always started with."""
    service_environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of each service, such as CARREL_LOG_LEVEL."""
    only: tuple[str, ...] | None = None
    """The services to start; () starts the engines alone, None everything."""
    peer_tls: bool = False
    """Whether the services speak TLS with each other, by certificates made in the data folder."""
    user_namespaces: bool = True
    """False: root runs PostgreSQL as another user instead of in a user namespace."""


class Stack:
    """`async with Stack(settings) as stack:` the system runs inside, and nothing of it is left after.

    Start it in a thread that lives as long as the system: the kernel ends the children when that thread ends.
    """

    def __init__(
        self, settings: StackSettings, on_exit: OnExit | None = None, services: Sequence[Service] = layout.SERVICES
    ) -> None:
        self.settings = settings
        self.on_exit = on_exit
        self._services = tuple(services)
        self._started = layout.select(services, settings.only)
        self._folder: DataFolder | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._nats: EmbeddedNats | None = None
        self._server: PostgresServer | None = None
        self._passwords: Mapping[str, str] = {}
        self._surroundings: Surroundings | None = None
        self._ports: Mapping[str, int] = {}
        self._children: dict[str, ChildProcess] = {}

    async def __aenter__(self) -> Stack:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when all was started, not when the services serve: see `ready`. StackError leaves nothing running."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Services first, then NATS, then PostgreSQL, so that each finds what it needs to end well; done to the end even when cancelled."""
        await to_the_end(self._stop())

    async def _stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children.values()))
        if self._nats is not None:
            await self._nats.stop()
        if self._postgres is not None:
            await self._postgres.stop()
        if self._folder is not None:
            remove_record(self._folder.path)
            self._folder.close()
            self._folder = None
        ports.release(self._ports.values())

    async def ready(self, timeout: float = 60.0) -> None:
        """Returns when every service that was started says SERVING; StackError names those that do not, and why."""
        late = dict(self._children)
        try:
            async with asyncio.timeout(timeout):
                await together(*(self._until_serving(child, late) for child in self._children.values()))
        except TimeoutError:
            words = ", ".join(f"{name} ({child.last_words()})" for name, child in late.items())
            raise StackError(
                f"Not serving after {timeout:.0f} s: {words}; read the logs in {self.settings.data_dir}/logs."
            ) from None

    @property
    def addresses(self) -> Mapping[str, str]:
        """`host:port` by name of what runs: `postgres`, `nats`, the services, `gateway_http`, `metrics.<service>`."""
        names = [name for service in self._started for name in layout.own_ports(service)]
        found = {name: self._known.address(name) for name in names}
        server = self._server.address if self._server else self._known.address("postgres")
        return {**found, "postgres": server, "nats": self.nats_url.rsplit("@", 1)[-1].removeprefix("nats://")}

    @property
    def nats_url(self) -> str:
        """With user and password."""
        return self._known.nats_url

    @property
    def admin_url(self) -> str:
        """The server's administrator, `postgresql://...`: for tests and repair, never for a service."""
        assert self._server is not None, "the stack is not started"
        return self._server.admin_url

    def admin_url_of(self, database: str) -> str:
        """The same, into another database of the server."""
        assert self._server is not None, "the stack is not started"
        return self._server.admin_url_of(database)

    def database_url(self, role: str) -> str:
        """`postgresql+asyncpg://...` of one of `roles.LOGIN_ROLES`."""
        return self._known.database_urls[role]

    def service_environment(self, name: str) -> dict[str, str]:
        """The environment of a service, started or not."""
        (service,) = (service for service in self._services if service.name == name)
        return self._known.environment(service)

    def pids(self) -> Mapping[str, int]:
        """The pid of each child that runs now, engines included."""
        return {name: child.pid for name, child in self._all_children().items() if child.pid is not None}

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to a child; when it dies of it, it is started again."""
        self._all_children()[name].kill(number)

    @property
    def _known(self) -> Surroundings:
        assert self._surroundings is not None, "the stack is not started"
        return self._surroundings

    def _all_children(self) -> dict[str, ChildProcess]:
        engines = (self._postgres, self._nats)
        return self._children | {e.child.name: e.child for e in engines if e is not None and e.child is not None}

    async def _start(self) -> None:
        folder = self._folder = DataFolder.open(self.settings.data_dir)
        await self._wait_for_previous(folder)
        ensure_keys(folder.keys)
        self._passwords = folder.passwords((*roles.LOGIN_ROLES, "postgres", "nats"))
        self._settle(folder)
        write_record(folder.path, Record(os.getpid(), self.addresses, started=False))
        await together(self._start_postgres(), self._start_nats())
        await self._migrate()
        await together(*(self._start_service(folder, service) for service in self._started))
        write_record(folder.path, Record(os.getpid(), self.addresses, started=True))

    async def _wait_for_previous(self, folder: DataFolder) -> None:
        """The children of a launcher that was killed die with it, but not in the same moment."""
        previous = read_record(folder.path)
        if previous is not None:
            local = [a.rsplit(":", 1)[1] for a in previous.addresses.values() if a.startswith(f"{ports.HOST}:")]
            await ports.until_free([int(port) for port in local], _PREVIOUS_SECONDS)
            remove_record(folder.path)

    def _settle(self, folder: DataFolder) -> None:
        """Chooses ports, and from them what everyone is told; nothing runs yet."""
        settings = self.settings
        chosen = self._ports = layout.choose_ports(settings.port_base)
        wanted = [name for service in self._started for name in layout.own_ports(service)]
        if settings.postgres_url is None:
            wanted.append("postgres")
            self._postgres = EmbeddedPostgres(
                folder,
                chosen["postgres"],
                self._passwords["postgres"],
                fast=settings.fast,
                settings=settings.postgres_settings,
                user_namespaces=settings.user_namespaces,
                on_exit=self._report,
            )
        if settings.nats_url is None:
            wanted.append("nats")
            self._nats = EmbeddedNats(folder, chosen["nats"], self._passwords["nats"], self._report)
        ports.check_free((name, chosen[name]) for name in wanted)
        server = self._postgres.server if self._postgres else PostgresServer.external(settings.postgres_url or "")
        self._server = server
        self._surroundings = Surroundings(
            ports=chosen,
            keys=folder.keys,
            corpora=folder.corpora,
            database_urls={role: server.url(role, self._passwords[role]) for role in roles.LOGIN_ROLES},
            nats_url=self._nats.url if self._nats else (settings.nats_url or ""),
            certificates=_certificates(folder, wanted=settings.peer_tls),
            extra=settings.service_environment,
        )

    async def _start_postgres(self) -> None:
        if self._postgres is not None:
            await self._postgres.start()
        assert self._server is not None
        await roles.bootstrap(self._server, self._passwords, ours=self._postgres is not None)

    async def _start_nats(self) -> None:
        if self._nats is not None:
            await self._nats.start()
        else:
            await check_external(self.nats_url)

    async def _migrate(self) -> None:
        with_tables = [service for service in self._started if service.schema is not None]
        if not with_tables:
            return
        # Imported here: an engine alone needs neither SQLAlchemy nor Alembic.
        from carrel_chassis.db.migrate import migrate

        for service in with_tables:
            await migrate(self.database_url(roles.MIGRATOR), service.module)

    async def _start_service(self, folder: DataFolder, service: Service) -> None:
        command = Command(
            name=service.name,
            # -P: what lies in the data folder is never imported.
            arguments=[sys.executable, "-P", "-m", service.module],
            environment=self._known.environment(service),
            log=folder.log(service.name),
            folder=folder.path,
            grace_seconds=_SERVICE_GRACE_SECONDS,
        )
        child = self._children[service.name] = ChildProcess(command, self._report)
        await child.start()

    async def _until_serving(self, child: ChildProcess, late: dict[str, ChildProcess]) -> None:
        deaths = child.deaths

        def check() -> None:
            if child.deaths - deaths >= _HOPELESS_DEATHS:
                raise StackError(f"{child.name} dies at its start ({child.last_words()}): read {child.command.log}.")

        await until_serving(self._known.address(child.name), child.command.environment, check)
        del late[child.name]

    def _report(self, name: str, return_code: int) -> None:
        if self.on_exit is not None:
            with contextlib.suppress(Exception):
                self.on_exit(name, return_code)


def _certificates(folder: DataFolder, *, wanted: bool) -> Path | None:
    try:
        return settle_certificates(folder.path, wanted=wanted)
    except ValueError as error:
        raise StackError(
            f"A certificate in {folder.path} is damaged ({error}): remove its folder tls, and new ones are made."
        ) from error
