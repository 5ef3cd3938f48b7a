"""What a command prints: results on standard output, for a person or as JSON; words about them on standard error.

On a terminal there are tables, colours and a spinner; on a pipe there are plain lines and nothing that moves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class Output:
    """The output of one command. `as_json` says that standard output is for a program."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @cached_property
    def console(self) -> Console:
        """Standard output, for a person."""
        return _console(stderr=False)

    @cached_property
    def notes(self) -> Console:
        """Standard error."""
        return _console(stderr=True)

    def document(self, value: Mapping[str, object]) -> None:
        """One line of JSON, seen at once by who reads; nothing unless `--json` was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
            sys.stdout.flush()

    def text(self, text: str) -> None:
        """The bare result, such as a token, for a person and for `$(...)`; nothing with `--json`."""
        if not self.as_json:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def note(self, text: str, style: str = "") -> None:
        """A line about what happens, on standard error."""
        self.notes.print(clean(text), style=style, soft_wrap=True)

    def parts(self, *parts: tuple[str, str], whole: bool = False) -> None:
        """A line of pieces, each with its style; cut at the edge of a terminal unless `whole`. Nothing with `--json`."""
        if not self.as_json:
            _print_parts(self.console, parts, whole)

    def note_parts(self, *parts: tuple[str, str]) -> None:
        """The same on standard error: what happens, for a person; with `--json` it is on standard output as JSON."""
        if not self.as_json:
            _print_parts(self.notes, parts, whole=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
        """Rows for a person; on a pipe tab-separated under their names, if they have any. `empty` is said when there are none."""
        if self.as_json:
            return
        if not rows:
            self.note(empty)
        elif self.console.is_terminal:
            self._draw(columns, rows)
        else:
            for row in (columns, *rows) if any(columns) else rows:
                self.text("\t".join(one_line(cell) for cell in row))

    def markdown(self, text: str) -> None:
        """A report: rendered on a terminal, as it is on a pipe."""
        if self.as_json:
            return
        if not self.console.is_terminal:
            self.text(clean(text).rstrip("\n"))
            return
        from rich.markdown import Markdown

        self.console.print(Markdown(clean(text)))

    def heading(self, text: str, style: str = "") -> None:
        """A line that begins a part; nothing with `--json`."""
        if not self.as_json:
            from rich.rule import Rule

            self.console.print()
            self.console.print(
                Rule(clean(text), style=style, align="left") if self.console.is_terminal else clean(text)
            )

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A spinner while the block runs, on a terminal only."""
        if not self.notes.is_terminal:
            yield
            return
        with self.notes.status(clean(text)):
            yield

    def _draw(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.table import Table

        cells = [[one_line(cell) for cell in row] for row in rows]
        table = Table(box=box.SIMPLE_HEAD, header_style="bold")
        # The name in the first column is what the next command asks for: whole, however narrow the terminal is.
        table.add_column(columns[0], no_wrap=True, min_width=max(len(row[0]) for row in cells))
        for column in columns[1:]:
            table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*row)
        self.console.print(table)


def one_line(text: str, most: int | None = None) -> str:
    """The text on one line, without what could steer a terminal, cut at `most` characters."""
    line = " ".join(clean(text).split())
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def clean(text: str) -> str:
    """The text without control characters but line breaks: what users and models wrote must not steer a terminal."""
    return "".join(char for char in text.replace("\t", " ") if char == "\n" or char.isprintable())


def _print_parts(console: Console, parts: Sequence[tuple[str, str]], whole: bool) -> None:
    from rich.text import Text

    line = Text.assemble(*((clean(text), style) for text, style in parts))
    if console.is_terminal and not whole:
        console.print(line, no_wrap=True, overflow="ellipsis")
    else:
        console.print(line, soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    # What is printed is data: brackets in it are no markup, numbers in it no decoration.
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)
