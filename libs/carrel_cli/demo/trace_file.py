"""A usage trace as a file: whether it is one, and its sums by plain Python, for comparison with what the agents compute."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from carrel_agents.examples import example_trace, generate
from carrel_cli.errors import CommandError

_SEED, _ROWS = 7, 1_200
_NEEDED = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True)
class TraceFile:
    """The bytes that are uploaded, and what they say."""

    name: str
    content: bytes
    requests: int
    input_tokens: int
    output_tokens: int

    @property
    def sha256(self) -> str:
        """As the corpus must have it."""
        return hashlib.sha256(self.content).hexdigest()


def generated_example() -> TraceFile:
    """A trace from the same generator as the shipped one, and another: other seed, more requests."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(generate.COLUMNS)
    writer.writerows(generate.rows(seed=_SEED, count=_ROWS))
    return _parse("a generated trace", text.getvalue().encode())


def shipped_example() -> TraceFile:
    """The generated trace that comes with the agents."""
    return _parse("the shipped example", example_trace().read_bytes())


def read_trace(path: Path) -> TraceFile:
    """The file as a trace; one sentence when it is none."""
    if path.is_dir():
        raise CommandError("FILE", f"{path} is a folder: name a CSV file.")
    try:
        return _parse(path.name, path.read_bytes())
    except OSError as error:
        raise CommandError("FILE", f"The file {path} cannot be read: {error.strerror}.") from error


def _parse(name: str, content: bytes) -> TraceFile:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("FILE", f"{name} is no CSV file in UTF-8: export the trace as one.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [column.strip().casefold() for column in next(reader, [])]
        rows = list(_rows(reader, name, columns))
    except csv.Error as error:
        raise CommandError("FILE", f"{name} is no CSV file (line {reader.line_num}: {error}).") from None
    if not rows:
        raise CommandError("FILE", f"{name} has no rows below its header: there is nothing to report on.")
    return TraceFile(name, content, len(rows), sum(row[0] for row in rows), sum(row[1] for row in rows))


def _rows(reader: Iterator[list[str]], name: str, columns: list[str]) -> Iterator[tuple[int, int]]:
    missing = [needed for needed in _NEEDED if needed.casefold() not in columns]
    if missing:
        raise CommandError("FILE", f"{name} is no usage trace: its header lacks {', '.join(missing)}.")
    places = [columns.index(needed.casefold()) for needed in _NEEDED[1:]]
    for row in reader:
        if row:
            yield _tokens(row, places[0]), _tokens(row, places[1])


def _tokens(row: list[str], place: int) -> int:
    """A count of the row; 0 where it cannot be read: the agents leave such a row out and say so."""
    text = row[place].strip() if place < len(row) else ""
    return int(text) if text.isascii() and text.isdigit() else 0
