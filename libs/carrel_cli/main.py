"""The entry point: the commands by their names, and what becomes of a command line that is wrong."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from carrel_cli import (
    corpus,
    doctor,
    events,
    keys,
    limits,
    lists,
    new,
    revoke,
    runs,
    schedules,
    sessions,
    stack,
    threads,
    token,
    users,
    waits,
    worker,
)
from carrel_cli.demo import command as demo

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_HERE, _ADMIN = "The system on this machine", "What its operator does"
_USE, _SEE = "What a user does", "What a user sees"


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"carrel {version('carrel')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Says which Carrel this is.", callback=_say_version, is_eager=True)
]


@app.callback()
def carrel(version: Version = False) -> None:
    """Runs AI agents for many users at once, each alone at their own desk."""


app.command("up", rich_help_panel=_HERE)(stack.up)
app.command("down", rich_help_panel=_HERE)(stack.down)
app.command("doctor", rich_help_panel=_HERE)(doctor.doctor)
app.command("demo", rich_help_panel=_HERE)(demo.demo)
app.command("token", rich_help_panel=_HERE)(token.token)
app.add_typer(new.app, name="new", rich_help_panel=_HERE)
app.add_typer(users.app, name="users", rich_help_panel=_ADMIN)
app.add_typer(keys.app, name="keys", rich_help_panel=_ADMIN)
app.add_typer(limits.app, name="limits", rich_help_panel=_ADMIN)
app.add_typer(revoke.app, name="revoke", rich_help_panel=_ADMIN)
app.command("worker", rich_help_panel=_ADMIN)(worker.worker)
app.command("run", rich_help_panel=_USE)(runs.run)
app.add_typer(corpus.app, name="corpus", rich_help_panel=_USE)
app.add_typer(threads.app, name="threads", rich_help_panel=_USE)
app.add_typer(schedules.app, name="schedules", rich_help_panel=_USE)
app.add_typer(waits.app, name="approvals", rich_help_panel=_USE)
app.command("answer", rich_help_panel=_USE)(waits.answer)
app.add_typer(runs.app, name="runs", rich_help_panel=_SEE)
app.add_typer(sessions.app, name="sessions", rich_help_panel=_SEE)
app.command("events", rich_help_panel=_SEE)(events.events)
app.command("agents", rich_help_panel=_SEE)(lists.agents)
app.command("tools", rich_help_panel=_SEE)(lists.tools)


def main() -> None:
    """Runs the command of this process and exits: 0 done, 1 refused or failed, 2 wrong usage, 130 after Ctrl-C."""
    try:
        code = app(prog_name="carrel", standalone_mode=False)
    except TyperException as error:
        code = _wrong_usage(error)
    except typer.Abort:
        code = 1
    except BrokenPipeError:
        # Whoever read our output has enough (`carrel events | head`); the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code or 0)


def _wrong_usage(error: TyperException) -> int:
    from typer.rich_utils import rich_format_error

    # The command that would know of --json did not come to run.
    if "--json" in sys.argv:
        document = {"error": {"reason": "USAGE", "message": error.format_message()}}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    rich_format_error(error)  # type: ignore[arg-type]  # the class it names, of which all of these are, is private
    return error.exit_code
