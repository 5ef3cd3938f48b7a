"""A document as one HTML page: no script, nothing loaded from anywhere, every text escaped, charts drawn in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from carrel_agents.document import Block, Figure, Heading, Item, Items, Paragraph, Quote, Span, Table, Words

_STYLE = (
    ":root{color-scheme:light dark;--text:#1a1a1a;--quiet:#555;--line:#ddd;--page:#fff}"
    "@media(prefers-color-scheme:dark){:root{--text:#e6e6e6;--quiet:#aaa;--line:#444;--page:#16181c}}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;"
    "color:var(--text);background:var(--page)}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:.2rem 0 .2rem 1.6rem;text-align:right;border-bottom:1px solid var(--line)}"
    "th:first-child,td:first-child{padding-left:0;text-align:left;overflow-wrap:anywhere}"
    "li{margin:.3rem 0}li li{margin:0;font-size:.9em;color:var(--quiet)}"
    "code{font-size:.9em;overflow-wrap:anywhere}svg{width:100%;height:auto}figure{margin:1.5rem 0}"
    "blockquote{margin-left:0;padding-left:1rem;border-left:3px solid var(--line)}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TAGS = {"strong": "strong", "emphasis": "em", "code": "code"}


def html(title: str, blocks: Sequence[Block]) -> str:
    """The whole page."""
    body = "\n".join(_block(block) for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Heading(level, words):
            return f"<h{level}>{_text(words)}</h{level}>"
        case Paragraph(words):
            return f"<p>{_text(words)}</p>"
        case Quote(words):
            return f"<blockquote>{_text(words)}</blockquote>"
        case Items(items, ordered):
            tag = "ol" if ordered else "ul"
            return f"<{tag}>{''.join(map(_item, items))}</{tag}>"
        case Table(head, rows):
            first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
            rest = "".join(f"<tr>{''.join(f'<td>{_span(cell)}</td>' for cell in row)}</tr>" for row in rows)
            return f"<table><thead><tr>{first}</tr></thead><tbody>{rest}</tbody></table>"
        case Figure(chart):
            return f"<figure>{chart.svg}</figure>"


def _item(item: Item) -> str:
    below = "".join(f"<li>{_text(words)}</li>" for words in item.below)
    return f"<li>{_text(item.words)}{f'<ul>{below}</ul>' if below else ''}</li>"


def _text(words: Words) -> str:
    return " ".join(_span(span) for span in words)


def _span(span: Span) -> str:
    tag = _TAGS.get(span.style)
    return f"<{tag}>{escape(span.text)}</{tag}>" if tag else escape(span.text)
