"""The operator's commands for a system whose PostgreSQL and NATS are run by others; `prepare` may be called at any time.

    python -m carrel_chassis.deploy prepare --to DIR [--postgres-url URL] [--nats-url URL] [--peer-tls] [--dev-issuer]
    python -m carrel_chassis.deploy api-key --to DIR --context HOST:PORT --tenant TENANT --user USER

DIR/secrets.json  the passwords of the database roles
DIR/keys/         the keys of all services, and the operator's
DIR/tls/          with --peer-tls: the authority of this system, and a certificate of each service and of the operator
DIR/<service>/    what that service reads, as CARREL_SECRETS_DIR
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from carrel_chassis.errors import CarrelError
from carrel_chassis.prepare import Order, prepare
from carrel_chassis.service_secrets import Owner
from carrel_chassis.stack.development import Operator
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.layout import SERVICES

POSTGRES_URL = "CARREL_POSTGRES_ADMIN_URL"
NATS_URL = "CARREL_NATS_URL"
DEV_ISSUER = "CARREL_DEV_ISSUER"


def prepare_command(given: argparse.Namespace) -> str:
    """Makes or mends everything; returns what to say."""
    if given.owner is not None and os.geteuid() not in (0, given.owner.uid):
        raise StackError("Only root may give the folders to another user: leave out --owner, or run as root.")
    prepare(
        Order(
            postgres_url=given.postgres_url,
            nats_url=given.nats_url,
            to=given.to,
            mounted_at=given.mounted_at or given.to,
            dev_issuer=given.dev_issuer,
            owner=given.owner,
            take_over=given.take_over,
            peer_tls=given.peer_tls,
        )
    )
    names = ", ".join(service.name for service in SERVICES)
    return f"Prepared. Each service reads its own folder in {given.to}, as CARREL_SECRETS_DIR: {names}."


def api_key_command(given: argparse.Namespace) -> str:
    """Makes an API key of a user, with the operator's key; the key is returned this once and kept nowhere."""
    try:
        return asyncio.run(_api_key(given))
    except (OSError, ValueError) as error:
        raise StackError(f"The operator's key in {given.to} cannot be read ({error}): say prepare first.") from error
    except CarrelError as error:
        raise StackError(f"The context service at {given.context} made no API key: {error}") from error


async def _api_key(given: argparse.Namespace) -> str:
    operator = Operator(given.to, given.context)
    try:
        return await operator.create_api_key(given.tenant, given.user, given.label)
    finally:
        await operator.close()


def _folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _owner(text: str) -> Owner:
    uid, _, gid = text.partition(":")
    return Owner(int(uid), int(gid or uid))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage and a sentence."""
        self.exit(2, f"{message[:1].upper()}{message[1:]}; see --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m carrel_chassis.deploy", description="Operates a system on servers run by others.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands.add_parser("prepare", help="keys, roles, schemas, migrations, secrets; may be called again"))
    _add_api_key(commands.add_parser("api-key", help="makes an API key of a user"))
    return parser


def _add_prepare(command: Any) -> None:
    # URLs hold passwords, and anybody on the machine can read a command line: the environment is the better way.
    urls = {
        "--postgres-url": (POSTGRES_URL, "of a role that may create roles and databases"),
        "--nats-url": (NATS_URL, "as the services shall use it"),
    }
    for option, (variable, what) in urls.items():
        given = os.environ.get(variable) or None
        command.add_argument(
            option, default=given, required=given is None, metavar="URL", help=f"{what}; or {variable}"
        )
    command.add_argument("--to", required=True, type=_folder, metavar="DIR", help="the folder of this system's secrets")
    command.add_argument("--mounted-at", type=Path, metavar="DIR", help="where the services see DIR; default: there")
    command.add_argument(
        "--dev-issuer",
        action="store_true",
        default=bool(os.environ.get(DEV_ISSUER)),
        help=f"the gateway believes tokens made from DIR/keys: for development; or {DEV_ISSUER}=1",
    )
    command.add_argument(
        "--peer-tls", action="store_true", help="the services speak TLS with each other, both sides certified"
    )
    command.add_argument("--owner", type=_owner, metavar="UID[:GID]", help="who reads the folders, where root prepares")
    command.add_argument("--take-over", action="store_true", help="gives the roles of an older folder new passwords")
    command.set_defaults(call=prepare_command)


def _add_api_key(command: Any) -> None:
    command.add_argument("--to", required=True, type=_folder, metavar="DIR", help="the folder of this system's secrets")
    command.add_argument("--context", required=True, metavar="HOST:PORT", help="the context service")
    command.add_argument("--tenant", required=True)
    command.add_argument("--user", required=True)
    command.add_argument("--label", default="made by the operator", help="what the list of keys shows")
    command.set_defaults(call=api_key_command)


def main(arguments: list[str]) -> int:
    """The exit code: 1 and a sentence on standard error when what was asked for could not be done."""
    given = _parser().parse_args(arguments)
    try:
        said: str = given.call(given)
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
