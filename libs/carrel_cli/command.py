"""What all commands share: their common options, the event loop, and one sentence for an error. It knows no command.

A command is an async function whose first parameter is what it works with, `Local`, `Session` or `Office`; the options that lead
there (`--data-dir`, `--json`, who asks) are added to its own by `local_command`, `client_command` and `admin_command`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from carrel_cli.data_dir import default_data_dir
from carrel_cli.errors import refusal
from carrel_cli.output import Output

if TYPE_CHECKING:
    from carrel.client import Admin, Client

P = ParamSpec("P")
Body = Callable[[Mapping[str, Any], Output, Path], Coroutine[Any, Any, int | None]]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

_COMMON, _WHO = "Common options", "Who asks whom"


@dataclass(frozen=True)
class Local:
    """What a command on this machine works with."""

    out: Output
    data_dir: Path


@dataclass(frozen=True)
class Session(Local):
    """What a command of a user works with; `client` is open while the command runs."""

    client: Client


@dataclass(frozen=True)
class Office(Local):
    """What a command of administration works with."""

    admin: Admin


def _option(name: str, kind: Any, default: object, *declarations: str, **settings: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*declarations, **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_LOCAL = (
    _option(
        "data_dir",
        Path | None,
        None,
        "--data-dir",
        help="The folder of the system on this machine: CARREL_DATA_DIR, else ~/.local/share/carrel.",
        rich_help_panel=_COMMON,
    ),
    _option("as_json", bool, False, "--json", help="JSON on standard output.", rich_help_panel=_COMMON),
)
_CLIENT = (
    _option("tenant", str | None, None, "--tenant", help="With --user: a development token.", rich_help_panel=_WHO),
    _option("user", str | None, None, "--user", help="The user, on this machine's own system.", rich_help_panel=_WHO),
    _option("token", str | None, None, "--token", help="A JWT or API key; else CARREL_TOKEN.", rich_help_panel=_WHO),
    _option(
        "address",
        str | None,
        None,
        "--address",
        help="The gateway, HOST:PORT or https://HOST:PORT; else CARREL_ADDRESS, else what runs on the data folder.",
        rich_help_panel=_WHO,
    ),
    *_LOCAL,
)


_ADMIN = (
    _option(
        "token",
        str | None,
        None,
        "--token",
        help="Administer as its user, through the gateway; else CARREL_TOKEN, else as this machine's operator.",
        rich_help_panel=_WHO,
    ),
    _CLIENT[3],
    *_LOCAL,
)


def local_command(function: Callable[Concatenate[Local, P], Awaitable[int | None]]) -> Callable[..., None]:
    """Makes a command of a function that works on this machine; what it returns is the exit code, None for 0."""

    async def body(values: Mapping[str, Any], out: Output, data_dir: Path) -> int | None:
        return await function(Local(out, data_dir), **values)  # type: ignore[call-arg]

    return _command(function, _LOCAL, body)


def client_command(function: Callable[Concatenate[Session, P], Awaitable[int | None]]) -> Callable[..., None]:
    """Makes a command of a function that calls a gateway as a user."""

    async def body(values: Mapping[str, Any], out: Output, data_dir: Path) -> int | None:
        from carrel_cli.access import Access

        own = dict(values)
        access = Access.choose(data_dir, **{option.name: own.pop(option.name) for option in _CLIENT[:-2]})
        async with access.client() as client:
            return await function(Session(out, data_dir, client), **own)  # type: ignore[call-arg]

    return _command(function, _CLIENT, body)


def admin_command(function: Callable[Concatenate[Office, P], Awaitable[int | None]]) -> Callable[..., None]:
    """Makes a command of a function that administers."""

    async def body(values: Mapping[str, Any], out: Output, data_dir: Path) -> int | None:
        from carrel_cli.administration import administrator

        own = dict(values)
        async with administrator(data_dir, own.pop("token"), own.pop("address")) as admin:
            return await function(Office(out, data_dir, admin), **own)  # type: ignore[call-arg]

    return _command(function, _ADMIN, body)


def output_command(function: Callable[Concatenate[Output, P], Awaitable[int | None]]) -> Callable[..., None]:
    """Makes a command of a function that needs nothing but an output."""

    async def body(values: Mapping[str, Any], out: Output, _: Path) -> int | None:
        return await function(out, **values)  # type: ignore[call-arg]

    return _command(function, _LOCAL[1:], body)


def _command(function: Callable[..., Any], options: tuple[inspect.Parameter, ...], body: Body) -> Callable[..., None]:
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

    def command(**values: Any) -> None:
        out = Output(values.pop("as_json"))
        data_dir = (values.pop("data_dir", None) or default_data_dir()).expanduser().absolute()
        raise typer.Exit(_run(out, body(values, out, data_dir)))

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    # Typer reads the signature: the function's own parameters, then the shared ones.
    command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *options)}
    return command


def _run(out: Output, work: Coroutine[Any, Any, int | None]) -> int:
    """The exit code of the work, done in an event loop of its own."""
    try:
        return asyncio.run(work) or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, typer.BadParameter):
        raise
    except Exception as error:
        refused = refusal(error)
        if refused is None:
            raise
        out.document(refused.document())
        out.note(refused.sentence(), style="red")
        return 1
