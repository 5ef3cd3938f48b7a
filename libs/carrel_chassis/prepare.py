"""Brings a PostgreSQL and a NATS that others run, and a folder of secrets, to what the services need; called by `deploy`."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from carrel_chassis.db.migrate import migrate
from carrel_chassis.service_secrets import Owner, Secrets, write_folder
from carrel_chassis.stack.certificates import settle_certificates
from carrel_chassis.stack.data_folder import kept_passwords
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.files import make_private_folder
from carrel_chassis.stack.keys import ensure_keys
from carrel_chassis.stack.layout import SERVICES
from carrel_chassis.stack.nats import check_external
from carrel_chassis.stack.postgres_url import PostgresServer
from carrel_chassis.stack.roles import LOGIN_ROLES, MIGRATOR, bootstrap

_BEFORE_THE_FIRST_TIME = {"lock", "keys", "lost+found"}
"""What may lie in a folder that is yet to be filled: a run that failed early, a new disk."""


@dataclass(frozen=True)
class Order:
    """What `prepare` was asked for."""

    postgres_url: str
    nats_url: str
    to: Path
    mounted_at: Path
    dev_issuer: bool
    owner: Owner | None
    take_over: bool
    peer_tls: bool
    """Whether the services are to speak TLS with each other, by certificates made here."""


def prepare(order: Order) -> None:
    """Brings server and folder to what the services need; StackError when that cannot be."""
    try:
        _open_folder(order)
        with _held(order.to):
            _prepare(order)
    except OSError as error:
        raise StackError(
            f"The folder {order.to} cannot be used ({error.strerror} at {error.filename}): name one that you may write to."
        ) from error


def _prepare(order: Order) -> None:
    server, kept = _server(order.postgres_url), order.to / "secrets.json"
    asyncio.run(_look(server, order.nats_url, expected=kept.exists() or order.take_over))
    try:
        ensure_keys(make_private_folder(order.to / "keys"))
        certificates = settle_certificates(order.to, wanted=order.peer_tls)
        passwords = kept_passwords(kept, LOGIN_ROLES)
    except ValueError as error:
        raise StackError(
            f"A key, a certificate or secrets.json in {order.to} is damaged ({error}): restore it from a copy."
        ) from error
    asyncio.run(_make(server, passwords))
    urls = {role: server.url(role, passwords[role]) for role in LOGIN_ROLES}
    secrets = Secrets(order.to / "keys", urls, order.nats_url, order.dev_issuer, order.mounted_at, certificates)
    for service in SERVICES:
        write_folder(order.to / service.name, secrets.of(service), order.owner)


def _open_folder(order: Order) -> None:
    make_private_folder(order.to)
    if order.owner is not None:
        # Others may pass through to the folder that is theirs, and read nothing on the way.
        order.to.chmod(0o711)
    names = {path.name for path in order.to.iterdir()}
    if "secrets.json" not in names and (foreign := names - _BEFORE_THE_FIRST_TIME):
        raise StackError(
            f"The folder {order.to} holds {min(foreign)} and no secrets.json, so it was not made here: "
            f"name the folder of the system, or an empty one."
        )


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Two that prepare one folder do so one after the other."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _server(url: str) -> PostgresServer:
    try:
        server = PostgresServer.external(url)
        _ = server.address  # reads the port
    except ValueError as error:
        raise StackError(f"The PostgreSQL URL is not one ({error}): mend it.") from error
    return server


async def _look(server: PostgresServer, nats_url: str, *, expected: bool) -> None:
    """Both servers let us in, and the database is not another folder's; before anything is changed anywhere."""
    await check_external(nats_url)
    try:
        admin = await asyncpg.connect(server.admin_url, timeout=10, command_timeout=30)
        try:
            found = await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = ANY($1)", list(LOGIN_ROLES))
        finally:
            await admin.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StackError(
            f"PostgreSQL at {server.address} does not let us in ({error or type(error).__name__}): "
            f"check the URL and the server."
        ) from error
    if found and not expected:
        raise StackError(
            f"PostgreSQL at {server.address} was prepared from another folder: name that folder, or say --take-over, "
            f"which gives its roles new passwords and cuts off what runs with the old ones."
        )


async def _make(server: PostgresServer, passwords: Mapping[str, str]) -> None:
    await bootstrap(server, passwords, ours=False)
    for service in SERVICES:
        if service.schema is None:
            continue
        try:
            await migrate(server.url(MIGRATOR, passwords[MIGRATOR]), service.module)
        except (SQLAlchemyError, CommandError, asyncpg.PostgresError, OSError, ImportError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StackError(
                f"The migrations of {service.module} failed ({reason}): mend the cause and call prepare again."
            ) from error
