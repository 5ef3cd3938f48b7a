"""A document as Markdown. Nothing in its texts takes effect as a mark. Charts are left to the HTML version."""

from __future__ import annotations

import re
from collections.abc import Sequence

from carrel_agents.document import Block, Figure, Heading, Item, Items, Paragraph, Quote, Span, Table, Words


def markdown(blocks: Sequence[Block]) -> str:
    """The whole text."""
    return "\n\n".join("\n".join(_lines(block)) for block in blocks if not isinstance(block, Figure)) + "\n"


def _lines(block: Block) -> list[str]:
    match block:
        case Heading(level, words):
            return [f"{'#' * level} {_text(words)}"]
        case Paragraph(words):
            return [_text(words)]
        case Quote(words):
            return [f"> {_text(words)}"]
        case Items(items, ordered):
            return [
                line for number, item in enumerate(items, 1) for line in _item(item, f"{number}." if ordered else "-")
            ]
        case Table(head, rows):
            return [_row(head), "|" + "---|" * len(head), *(_row([_span(cell) for cell in row]) for row in rows)]
        case Figure():
            return []


def _item(item: Item, mark: str) -> list[str]:
    indent = " " * (len(mark) + 1)
    return [f"{mark} {_text(item.words)}", *(f"{indent}- {_text(words)}" for words in item.below)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _text(words: Words) -> str:
    return " ".join(_span(span) for span in words)


def _span(span: Span) -> str:
    match span.style:
        case "code":
            return f"`{_no_html(span.text.replace('`', ''))}`"
        case "foreign":
            return re.sub(r"([\\`*_{}\[\]()#|!~$:@.])", r"\\\1", _no_html(span.text))
        case "strong":
            return f"**{_prose(span.text)}**"
        case "emphasis":
            return f"*{_prose(span.text)}*"
        case "plain":
            return _prose(span.text)


def _prose(text: str) -> str:
    """A sentence of the agents or of a model, in which a name from a table or a trace may occur; no address becomes a link."""
    escaped = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", _no_html(" ".join(text.split())))
    return re.sub(r":(?=//)|(?<=www)\.", r"\\\g<0>", escaped, flags=re.IGNORECASE)


def _no_html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
