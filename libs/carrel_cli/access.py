"""Whom a command asks, and as whom: from options, the environment, or the system that runs on this machine.

The launcher and the keys are imported where they are needed: who has a token and an address waits for neither.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import typer

from carrel.client import Client
from carrel.errors import Unauthenticated, Unavailable
from carrel_chassis.errors import CarrelError
from carrel_chassis.ids import check_id
from carrel_cli.data_dir import default_data_dir
from carrel_cli.errors import CommandError
from carrel_cli.terminal import terminal_session


@dataclass(frozen=True)
class Access:
    """A gateway and a credential."""

    address: str
    token: str = field(repr=False)
    encrypted: bool = False

    @classmethod
    def choose(
        cls, data_dir: Path, tenant: str | None, user: str | None, token: str | None, address: str | None
    ) -> Access:
        """Options go before the environment; a credential that is asked for twice or not at all is wrong usage."""
        credential = choose_token(data_dir, tenant, user, token)
        given = address or os.environ.get("CARREL_ADDRESS") or running(data_dir)["gateway"]
        scheme, _, rest = given.rpartition("://")
        if scheme not in ("", "http", "https") or not rest:
            raise typer.BadParameter("give HOST:PORT or https://HOST:PORT.", param_hint="'--address'")
        return cls(rest.rstrip("/"), credential, encrypted=scheme == "https")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client, closed after; a gateway that is not there becomes a sentence that says what to do."""
        credentials = grpc.ssl_channel_credentials() if self.encrypted else None
        async with Client(self.address, self.token, credentials=credentials) as client:
            try:
                yield client
            except Unauthenticated as error:
                if error.metadata.get("revoked") != "session":
                    raise
                message = "This session has been ended: open another terminal, or get another token."
                raise CommandError(error.reason, message) from error
            except Unavailable as error:
                if error.reason:
                    raise
                # gRPC's own sentence tells of sockets; nothing that speaks Carrel has answered.
                message = f"No Carrel answers at {self.address}: start it with `carrel up`, or check --address."
                raise CommandError("UNAVAILABLE", message) from error


def choose_token(data_dir: Path, tenant: str | None, user: str | None, token: str | None) -> str:
    """The token that was given, or a development token of the user that was named."""
    if token and (tenant or user):
        raise typer.BadParameter("give either --token or --tenant with --user.", param_hint="'--token'")
    if bool(tenant) != bool(user):
        raise typer.BadParameter("a user is named by both --tenant and --user.", param_hint="'--tenant' / '--user'")
    if tenant and user:
        return local_token(data_dir, tenant, user, session_id=terminal_session(tenant, user))
    found = token or os.environ.get("CARREL_TOKEN")
    if not found:
        raise typer.BadParameter(
            "say who you are: --tenant and --user on this machine, or --token (CARREL_TOKEN) anywhere.",
            param_hint="'--tenant' / '--user' / '--token'",
        )
    return found.strip()


def local_token(
    data_dir: Path, tenant: str, user: str, lifetime_seconds: float = 12 * 3600.0, session_id: str = ""
) -> str:
    """A development token of this machine's own system, of a new session where none is named."""
    from carrel_chassis.stack.development import development_token

    check_user(tenant, user)
    try:
        return development_token(data_dir, tenant, user, lifetime_seconds, session_id)
    except FileNotFoundError:
        raise CommandError(
            "NOT_RUNNING", f"The data folder {data_dir} holds no system yet: start one with `{up_command(data_dir)}`."
        ) from None
    except PermissionError:
        raise CommandError(
            "DATA_DIR", f"The keys in {data_dir} belong to another user: run as the user who runs `carrel up`."
        ) from None


def check_user(tenant: str, user: str) -> None:
    """Refuses what can be no id as wrong usage."""
    for option, value in (("--tenant", tenant), ("--user", user)):
        try:
            check_id(value, option.lstrip("-"))
        except CarrelError as error:
            raise typer.BadParameter(error.message, param_hint=f"'{option}'") from None


def running(data_dir: Path) -> dict[str, str]:
    """The addresses of the system that runs on the data folder; without one, a sentence how to start it."""
    from carrel_chassis.stack import read_stack
    from carrel_chassis.stack.data_folder import lock_holder

    addresses = read_stack(data_dir)
    if addresses is not None:
        return dict(addresses)
    if data_dir.is_dir() and lock_holder(data_dir) is not None:
        raise CommandError("NOT_RUNNING", f"The system on {data_dir} is just starting or stopping: try again soon.")
    raise CommandError(
        "NOT_RUNNING",
        f"No system runs on the data folder {data_dir}: start one with `{up_command(data_dir)}`, or name a gateway "
        "with --address.",
    )


def up_command(data_dir: Path) -> str:
    """The command that starts a system on the folder."""
    return "carrel up" if is_default(data_dir) else f"carrel up --data-dir {data_dir}"


def is_default(data_dir: Path) -> bool:
    """Whether a command finds the folder without being told."""
    return data_dir == default_data_dir().absolute()
