"""The formats of corpora: what each is called, and how DuckDB reads it as a table. It opens no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
JSON_LINES = "application/x-ndjson"
TEXT = "text/plain"
MARKDOWN = "text/markdown"

MEDIA_TYPES = (CSV, PARQUET, JSON_LINES, TEXT, MARKDOWN)
SUFFIXES: Mapping[str, str] = {CSV: "csv", PARQUET: "parquet", JSON_LINES: "jsonl", TEXT: "txt", MARKDOWN: "md"}
LINES = ("line", "text")
"""The columns of a text."""


def source(media_type: str, path: str, columns: Sequence[str], types: Sequence[str], *, parallel: bool = False) -> str:
    """The table expression for a file. Nothing is guessed: a file always reads as it did when it was checked."""
    given = ", ".join(f"{quoted(name)}: {quoted(kind)}" for name, kind in zip(columns, types, strict=True))
    match media_type:
        case "text/csv":
            # The dialect is that of RFC 4180.
            return (
                f"read_csv({quoted(path)}, auto_detect = false, columns = {{{given}}}, header = true, delim = ',', quote = '\"', "
                f"escape = '\"', comment = '', nullstr = '', null_padding = true, parallel = {parallel}, encoding = 'utf-8')"
            )
        case "application/vnd.apache.parquet":
            return f"read_parquet({quoted(path)}, hive_partitioning = false)"
        case "application/x-ndjson":
            return (
                f"read_json({quoted(path)}, format = 'newline_delimited', auto_detect = false, columns = {{{given}}})"
            )
        case _:
            # Counted from 1, and without the empty piece after the last line end.
            pieces = f"SELECT string_split(regexp_replace(content, '\\r?\\n$', ''), chr(10)) AS pieces FROM read_text({quoted(path)})"
            each = "unnest(range(1, len(pieces) + 1)) AS line, rtrim(unnest(pieces), chr(13)) AS text"
            return f"(SELECT {each} FROM ({pieces}))"


def quoted(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'
