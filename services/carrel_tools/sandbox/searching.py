"""Full-text search over the files of one call: SQLite's FTS5 with its BM25, built in memory and gone with the process.

Chosen over DuckDB's `fts`, which is an extension that would have to be downloaded, and over an index on disk, which would have to be
encrypted, kept and erased like the corpora themselves.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import duckdb

from carrel_chassis.sandbox.zygote import Place
from carrel_tools import formats
from carrel_tools.sandbox.duck import Refused, connect, give, guarded

MAX_PASSAGES = 500_000
_PASSAGE_CHARS = 1500
_SNIPPET_WORDS = 24
_BATCH = 2000
_WORD = re.compile(r"\w+", re.UNICODE).findall


def search(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """{"words", "offset", "max_hits", "memory_mb", "corpora"} and files →
    {"hits": [{"corpus", "place", "score", "snippet"}], "searched", "truncated", "next"}.

    A hit has all the words, if any passage has; otherwise some. "place" is the row of a table, counted from 1, or the first line of a
    passage of a text. A greater score fits better. The hits are those from `offset` on; "next" is the offset of those that follow, or null.
    """
    return guarded(lambda: _search(request, place))


def _search(request: dict[str, Any], place: Place) -> dict[str, Any]:
    words = [word for word in _WORD(request["words"]) if word.strip("_")]
    if not words:
        raise Refused("words", "There is no word to search for; give some letters or digits.")
    index = sqlite3.connect(":memory:")
    index.execute(
        "CREATE VIRTUAL TABLE passage USING fts5(text, corpus UNINDEXED, place UNINDEXED, tokenize = 'porter unicode61')"
    )
    connection = connect(request["memory_mb"])
    give(connection, [place.path(number) for number in range(len(place.files))])
    count = 0
    for name, corpus in request["corpora"].items():
        for text, where in _passages(connection, corpus, place.path(corpus["file"])):
            count += 1
            if count > MAX_PASSAGES:
                raise Refused("size", f"There are more than {MAX_PASSAGES} rows to search; name fewer corpora.")
            index.execute("INSERT INTO passage VALUES (?, ?, ?)", (text, name, where))
    every, some = (joined.join(f'"{word}"' for word in words) for joined in (" AND ", " OR "))
    match = every if _fits(index, every) else some
    offset, most = request["offset"], request["max_hits"]
    hits = _hits(index, match, offset, most + 1)
    more = len(hits) > most
    return {
        "hits": hits[:most],
        "searched": count,
        "truncated": more,
        "next": offset + most if more else None,
    }


def _fits(index: sqlite3.Connection, match: str) -> bool:
    return index.execute("SELECT 1 FROM passage WHERE passage MATCH ? LIMIT 1", (match,)).fetchone() is not None


def _hits(index: sqlite3.Connection, match: str, offset: int, most: int) -> list[dict[str, Any]]:
    found = index.execute(
        f"SELECT corpus, place, -bm25(passage), snippet(passage, 0, '**', '**', '…', {_SNIPPET_WORDS}) FROM passage "
        "WHERE passage MATCH ? ORDER BY bm25(passage), corpus, place LIMIT ? OFFSET ?",
        (match, most, offset),
    )
    return [
        {"corpus": corpus, "place": place, "score": round(score, 6), "snippet": snippet}
        for corpus, place, score, snippet in found
    ]


def _passages(connection: duckdb.DuckDBPyConnection, corpus: dict[str, Any], path: str) -> Iterator[tuple[str, int]]:
    if corpus["media_type"] in (formats.TEXT, formats.MARKDOWN):
        with open(path, encoding="utf-8-sig") as file:
            yield from _paragraphs(file)
        return
    table = formats.source(corpus["media_type"], path, corpus["columns"], corpus["types"])
    shown = ", ".join(f"CAST({formats.identifier(name)} AS VARCHAR)" for name in corpus["columns"])
    cursor = connection.execute(f"SELECT concat_ws(' | ', {shown}) FROM {table}")
    number = 0
    while batch := cursor.fetchmany(_BATCH):
        for (text,) in batch:
            number += 1
            yield text, number


def _paragraphs(lines: Any) -> Iterator[tuple[str, int]]:
    """Passages that end at a blank line or a heading, or when they are long; each with the number of its first line."""
    held: list[str] = []
    begin = size = 0
    for number, line in enumerate(lines, 1):
        ends = not line.strip() or line.startswith("#") or size > _PASSAGE_CHARS
        if ends and held:
            yield "".join(held), begin
            held, size = [], 0
        if line.strip():
            begin = begin if held else number
            held.append(line)
            size += len(line)
    if held:
        yield "".join(held), begin
