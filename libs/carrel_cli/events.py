"""`carrel events`: the user's log of events, as it is kept or as it goes on."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.command import INTERRUPTED, Session, client_command

if TYPE_CHECKING:
    from carrel.client import Cursor, Event


@client_command
async def events(
    session: Session,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", "-f", help="Go on live, until Ctrl-C.")] = False,
    after: Annotated[
        str, typer.Option(metavar="EPOCH-OFFSET", help="Only what comes after this cursor.", show_default=False)
    ] = "",
    type: Annotated[list[str] | None, typer.Option("--type", help="Only events of this type; repeatable.")] = None,
    run: Annotated[str, typer.Option(metavar="RUN", help="Only events of this run.", show_default=False)] = "",
) -> int | None:
    """Shows your events, oldest first; with --follow also those to come."""
    cursor = parse_cursor(after) if after else None
    if not follow:
        await _kept(session, cursor, type or [], run)
        return None
    try:
        async with aclosing(session.client.subscribe(cursor, run_id=run, types=type or [])) as stream:
            async for event in stream:
                show(session, event)
    except asyncio.CancelledError:
        return INTERRUPTED
    return None


def parse_cursor(text: str) -> Cursor:
    """The cursor of `EPOCH-OFFSET`."""
    from carrel.client import Cursor

    parts = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,19})", text)
    if parts is None:
        raise typer.BadParameter('give a cursor as EPOCH-OFFSET, such as "1-42".', param_hint="'--after'")
    return Cursor(epoch=int(parts[1]), offset=int(parts[2]))


def show(session: Session, event: Event) -> None:
    """One event, on standard output."""
    from carrel_cli.documents import cursor_text, event_document
    from carrel_cli.event_lines import event_parts

    session.out.document({"event": event_document(event)})
    session.out.parts((f"{cursor_text(event.cursor):<16} ", "dim"), *event_parts(event))


async def _kept(session: Session, after: Cursor | None, types: list[str], run_id: str) -> None:
    shown = False
    while True:
        page = await session.client.list_events(after, types=types, run_id=run_id)
        for event in page.events:
            show(session, event)
            shown = True
        if not page.more:
            break
        after = page.position
    if not shown:
        session.out.note("No events.")
