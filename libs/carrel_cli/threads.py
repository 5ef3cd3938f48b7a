"""`carrel threads ...`: the user's conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.command import Session, client_command

if TYPE_CHECKING:
    from carrel.client import Thread

app = typer.Typer(help="Your threads: runs that follow each other.", no_args_is_help=True)

ThreadId = Annotated[str, typer.Argument(metavar="THREAD", help="The id of the thread.")]


@app.command("create")
@client_command
async def create(session: Session, title: Annotated[str, typer.Argument(help="What it is about.")] = "") -> None:
    """Makes a thread; give its id to `carrel run --thread`."""
    made = await session.client.create_thread(title)
    _show(session, made)


@app.command("list")
@client_command
async def list_(session: Session) -> None:
    """Lists your threads, newest first."""
    from carrel_cli.documents import document
    from carrel_cli.event_lines import moment

    found = [thread async for thread in session.client.list_threads(page_size=200)]
    session.out.document({"threads": [document(thread) for thread in found]})
    rows = [(thread.thread_id, thread.title, moment(thread.create_time)) for thread in found]
    session.out.table(["THREAD", "TITLE", "MADE"], rows, "No threads yet: make one with `carrel threads create TITLE`.")


@app.command("rename")
@client_command
async def rename(
    session: Session, thread: ThreadId, title: Annotated[str, typer.Argument(help="Its new title.")]
) -> None:
    """Gives a thread another title; its id stays."""
    _show(session, await session.client.rename_thread(thread, title))


@app.command("delete")
@client_command
async def delete(session: Session, thread: ThreadId) -> None:
    """Takes a thread off the list; its runs stay."""
    await session.client.delete_thread(thread)
    session.out.document({"deleted": thread})
    session.out.text(f"{thread} is deleted.")


def _show(session: Session, thread: Thread) -> None:
    from carrel_cli.documents import document

    session.out.document({"thread": document(thread)})
    session.out.text(f"{thread.thread_id}\t{thread.title}")
