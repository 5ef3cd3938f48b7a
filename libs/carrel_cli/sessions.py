"""`carrel sessions ...`: the ways in that the user has used."""

from __future__ import annotations

from typing import Annotated

import typer

from carrel_cli.command import Session, client_command

app = typer.Typer(help="Where you are signed in: terminals, tokens and API keys in use.", no_args_is_help=True)


@app.command("list")
@client_command
async def list_(session: Session) -> None:
    """Lists your sessions, newest first."""
    from carrel_cli.documents import document
    from carrel_cli.event_lines import moment

    found = [one async for one in session.client.list_sessions(page_size=200)]
    documents = [document(one) for one in found]
    session.out.document({"sessions": documents})
    rows = [
        (
            one.session_id,
            str(shown["kind"]).lower().replace("_", " "),
            moment(one.create_time),
            moment(one.last_seen_time),
            "ended" if one.ended else "this one" if one.current else "active",
        )
        for one, shown in zip(found, documents, strict=True)
    ]
    session.out.table(["SESSION", "BY", "SINCE", "LAST SEEN", "STATE"], rows, "No sessions.")


@app.command("end")
@client_command
async def end(session: Session, session_id: Annotated[str, typer.Argument(metavar="SESSION", help="Its id.")]) -> None:
    """Ends a session: within 2 seconds its calls are refused and its runs are cancelled; an API key is revoked."""
    await session.client.end_session(session_id)
    session.out.document({"ended": session_id})
    session.out.text(f"{session_id} is ended.")
