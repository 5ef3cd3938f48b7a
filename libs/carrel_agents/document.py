"""A report as a document: headings, paragraphs, lists, tables and charts, before anybody knows whether it becomes Markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from carrel_agents.drawing import Chart


class Span(NamedTuple):
    """A piece of text in one style."""

    text: str
    style: Literal["plain", "strong", "emphasis", "code", "foreign"] = "plain"
    """"foreign": what a user wrote; not even an address in it becomes a link."""


Words: TypeAlias = Sequence[Span]


class Heading(NamedTuple):
    """Level 1 is the title."""

    level: int
    words: Words


class Paragraph(NamedTuple):
    """Some sentences."""

    words: Words


class Quote(NamedTuple):
    """What somebody else said."""

    words: Words


class Item(NamedTuple):
    """A line of a list, with lines of its own below it."""

    words: Words
    below: Sequence[Words] = ()


class Items(NamedTuple):
    """A list."""

    items: Sequence[Item]
    ordered: bool = False


class Table(NamedTuple):
    """Rows under a head; every row has as many cells as the head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Span]]


class Figure(NamedTuple):
    """A chart."""

    chart: Chart


Block: TypeAlias = Heading | Paragraph | Quote | Items | Table | Figure


def strong(text: str) -> Span:
    """What a reader should see first."""
    return Span(text, "strong")


def emphasis(text: str) -> Span:
    """A word that leads into something."""
    return Span(text, "emphasis")


def code(text: str) -> Span:
    """A formula, or the name of a setting."""
    return Span(text, "code")


def foreign(text: str, most: int = 300) -> Span:
    """What a user wrote, as one line of at most `most` characters."""
    line = " ".join(text.split())
    return Span(line if len(line) <= most else line[:most] + "…", "foreign")
