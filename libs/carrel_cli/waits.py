"""`carrel approvals ...` and `carrel answer`: what your runs wait for you to say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.command import Session, client_command
from carrel_cli.errors import CommandError

if TYPE_CHECKING:
    from carrel.client import Wait

app = typer.Typer(help="What your runs wait for: approvals and input.", no_args_is_help=True)

WaitId = Annotated[str, typer.Argument(metavar="WAIT", help="Its id: see `carrel approvals list`.")]


@app.command("list")
@client_command
async def list_(
    session: Session,
    run: Annotated[str, typer.Option(metavar="RUN", help="Only of this run.", show_default=False)] = "",
) -> None:
    """Lists what your runs wait for, oldest first."""
    from carrel_cli.documents import document
    from carrel_cli.event_lines import moment

    found = [wait async for wait in session.client.list_waits(run, page_size=200)]
    session.out.document({"waits": [document(wait) for wait in found]})
    rows = [
        (wait.wait_id, _kind(wait), wait.run_id, wait.prompt, _asked(wait), moment(wait.create_time)) for wait in found
    ]
    session.out.table(["WAIT", "KIND", "RUN", "PROMPT", "ABOUT", "SINCE"], rows, "No run waits for you.")


@app.command("approve")
@client_command
async def approve(session: Session, wait: WaitId) -> None:
    """Lets the run make the call that it shows, and no other."""
    await _decide(session, wait, approved=True)


@app.command("deny")
@client_command
async def deny(session: Session, wait: WaitId) -> None:
    """Does not let the run make the call; its agent is told."""
    await _decide(session, wait, approved=False)


@client_command
async def answer(
    session: Session,
    wait: WaitId,
    value: Annotated[str, typer.Argument(metavar="ANSWER", help="JSON; what is none counts as text.")],
) -> None:
    """Gives a run the input that it waits for."""
    from carrel_cli.documents import document

    try:
        given = json.loads(value)
    except ValueError:
        given = value
    done = await session.client.answer_wait(wait, given)
    session.out.document({"wait": document(done)})
    session.out.text(f"{done.wait_id} is answered; {done.run_id} goes on.")


async def _decide(session: Session, wait_id: str, *, approved: bool) -> None:
    from carrel.client import WaitKind
    from carrel_cli.documents import document

    shown = [one async for one in session.client.list_waits(page_size=200) if one.wait_id == wait_id]
    if not shown or shown[0].kind != WaitKind.WAIT_KIND_APPROVAL:
        raise CommandError("WAIT_NOT_FOUND", f"No run waits for the approval {wait_id}: see `carrel approvals list`.")
    session.out.note(f"{shown[0].tool} {shown[0].arguments_json}")
    done = await session.client.decide_wait(shown[0], approved=approved)
    session.out.document({"wait": document(done)})
    session.out.text(f"{done.wait_id} is {'approved' if approved else 'denied'}; {done.run_id} goes on.")


def _kind(wait: Wait) -> str:
    from carrel_cli.documents import document

    return str(document(wait)["kind"]).lower()


def _asked(wait: Wait) -> str:
    return f"{wait.tool} {wait.arguments_json}" if wait.tool else wait.answer_schema_json
