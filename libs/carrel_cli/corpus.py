"""`carrel corpus ...`: the user's own files that tools can read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from carrel_cli.command import Session, client_command
from carrel_cli.errors import CommandError

app = typer.Typer(help="Your own files, for tools to read.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The name under which runs find it.")]


@app.command("upload")
@client_command
async def upload(
    session: Session,
    name: Name,
    file: Annotated[Path, typer.Argument(help="CSV with a header, Parquet, JSON lines, text or Markdown.")],
    type: Annotated[str, typer.Option(metavar="MEDIA/TYPE", help="Else by its suffix.", show_default=False)] = "",
) -> None:
    """Stores a file under a name; other content under the same name is replaced."""
    from carrel_cli.documents import document

    try:
        with session.out.waiting(f"Uploading {file.name}"):
            corpus = await session.client.upload_corpus(name, file, type)
    except OSError as error:
        raise CommandError("FILE", f"The file {file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="'--type'") from None
    session.out.document({"corpus": document(corpus)})
    session.out.text(f"{corpus.name}: {corpus.size_bytes:,} bytes, sha256 {corpus.sha256}")


@app.command("list")
@client_command
async def list_(session: Session) -> None:
    """Lists your corpora."""
    from carrel_cli.documents import document
    from carrel_cli.event_lines import moment

    found = [corpus async for corpus in session.client.list_corpora()]
    session.out.document({"corpora": [document(corpus) for corpus in found]})
    rows = [
        (corpus.name, f"{corpus.size_bytes:,}", corpus.media_type, moment(corpus.create_time), corpus.sha256[:12])
        for corpus in found
    ]
    empty = "No corpora yet: upload one with `carrel corpus upload NAME FILE`."
    session.out.table(["CORPUS", "BYTES", "TYPE", "UPLOADED", "SHA256"], rows, empty)


@app.command("download")
@client_command
async def download(
    session: Session,
    name: Name,
    file: Annotated[Path, typer.Argument(help="Where to write it; replaced. - for standard output.")],
) -> None:
    """Writes the bytes of a corpus to a file, as they were uploaded."""
    from carrel_cli.documents import document

    if str(file) == "-":
        if session.out.as_json:
            raise typer.BadParameter("only one of - and --json can have standard output.", param_hint="'file'")
        sys.stdout.buffer.write(await session.client.read_corpus(name))
        return
    try:
        with session.out.waiting(f"Downloading {name}"):
            corpus = await session.client.download_corpus(name, file)
    except OSError as error:
        raise CommandError("FILE", f"The file {file} cannot be written: {error.strerror}.") from error
    session.out.document({"corpus": document(corpus)})
    session.out.text(f"{file}: {corpus.size_bytes:,} bytes, sha256 {corpus.sha256}")


@app.command("erase")
@client_command
async def erase(
    session: Session, yes: Annotated[bool, typer.Option("--yes", help="Yes, all of them, for ever.")] = False
) -> None:
    """Erases all your corpora and the key that they are encrypted under."""
    if not yes:
        raise typer.BadParameter("it cannot be undone; say that you mean it.", param_hint="'--yes'")
    count = await session.client.erase_corpora()
    session.out.document({"erased_corpora": count})
    session.out.text(f"{count} corpora are erased.")


@app.command("delete")
@client_command
async def delete(session: Session, name: Name) -> None:
    """Deletes a corpus and its bytes."""
    await session.client.delete_corpus(name)
    session.out.document({"deleted": name})
    session.out.text(f"{name} is deleted.")
