"""What a file must be to become a corpus: read whole, in a process of its own. It knows no user."""

from __future__ import annotations

import codecs
import csv
import json
import re
from typing import Any

import duckdb

from carrel_chassis.sandbox.zygote import Place
from carrel_tools import formats
from carrel_tools.sandbox.duck import Refused, connect, give, guarded

MAX_COLUMNS = 1000
MAX_EXPANDED_BYTES = 8 * 1024**3
"""What a Parquet file may say that it holds, uncompressed."""
_MAX_LINE_BYTES = 2_000_000
"""DuckDB's own limit."""
_PIECE_BYTES = 1024 * 1024
_LINE = re.compile(r"(?:CSV Error on Line|in line|Line):? (\d+)", re.IGNORECASE).search


def check(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """{"media_type", "memory_mb"} and one file → {"columns", "types", "rows"}; refused as ["file", why and where]."""
    return guarded(lambda: _check(request["media_type"], place.path(0), request["memory_mb"]))


def _check(media_type: str, path: str, memory_mb: int) -> dict[str, Any]:
    if media_type != formats.PARQUET:
        _check_text(path)
    connection = connect(memory_mb)
    give(connection, [path])
    match media_type:
        case formats.CSV:
            return _check_csv(connection, path)
        case formats.PARQUET:
            return _check_parquet(connection, path)
        case formats.JSON_LINES:
            return _check_json_lines(connection, path)
        case _:
            rows = _count(connection, formats.source(media_type, path, (), ()))
            return {"columns": list(formats.LINES), "types": ["BIGINT", "VARCHAR"], "rows": rows}


def _check_text(path: str) -> None:
    """Refuses what is not UTF-8, or is no text at all, and says where."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            pending = len(decoder.getstate()[0])
            if (nul := piece.find(b"\x00")) >= 0:
                raise _refused(f"Byte {offset + nul} of the file is zero; it must be text in UTF-8.")
            _decode(decoder, piece, offset - pending, final=False)
            offset += len(piece)
    if offset == 0:
        raise _refused("The file is empty.")
    _decode(decoder, b"", offset - len(decoder.getstate()[0]), final=True)


def _decode(decoder: codecs.IncrementalDecoder, piece: bytes, begin: int, *, final: bool) -> None:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError as error:
        raise _refused(f"Byte {begin + error.start} of the file is not UTF-8; save it in that encoding.") from None


def _check_csv(connection: duckdb.DuckDBPyConnection, path: str) -> dict[str, Any]:
    columns = _header(path)
    types = ["VARCHAR"] * len(columns)
    try:
        rows = _count(connection, formats.source(formats.CSV, path, columns, types, parallel=True))
    except duckdb.Error as error:
        if isinstance(error, duckdb.OutOfMemoryException):
            raise
        if "parallel scanner" not in str(error):
            raise _no_csv(line_of(error)) from None
        # Line ends within quotes and rows that are too short: only DuckDB's serial scanner reads both, and it drops without a
        # word what follows a quote that is never closed. Python's reader finds that.
        _check_quotes(path)
        try:
            rows = _count(connection, formats.source(formats.CSV, path, columns, types))
        except duckdb.InvalidInputException as second:
            raise _no_csv(line_of(second)) from None
    return {"columns": columns, "types": types, "rows": rows}


def _check_parquet(connection: duckdb.DuckDBPyConnection, path: str) -> dict[str, Any]:
    try:
        found = connection.execute(
            f"SELECT coalesce(sum(total_uncompressed_size), 0) FROM parquet_metadata({formats.quoted(path)})"
        ).fetchone()
        expanded = int(found[0]) if found else 0
        if expanded > MAX_EXPANDED_BYTES:
            raise _refused(f"The Parquet file holds {expanded} bytes uncompressed; it may hold {MAX_EXPANDED_BYTES}.")
        columns, types = _described(connection, formats.source(formats.PARQUET, path, (), ()))
        rows = _count(connection, formats.source(formats.PARQUET, path, (), ()))
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        why = str(error).partition("\n")[0].replace(path, "the file")[:200]
        raise _refused(f"The file cannot be read as Parquet to its end: {why}") from None
    return {"columns": columns, "types": types, "rows": rows}


def _check_json_lines(connection: duckdb.DuckDBPyConnection, path: str) -> dict[str, Any]:
    _check_objects(path)
    guessed = f"read_json({formats.quoted(path)}, format = 'newline_delimited', sample_size = -1, maximum_depth = 3)"
    try:
        columns, types = _described(connection, guessed)
        rows = _count(connection, formats.source(formats.JSON_LINES, path, columns, types))
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        where = f" near line {line}" if (line := line_of(error)) else ""
        raise _refused(f"The file cannot be read as JSON lines{where}: each line must be one object.") from None
    return {"columns": columns, "types": types, "rows": rows}


def _check_objects(path: str) -> None:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                raise _refused(f"Line {number} of the file is not JSON; each line must be one object.") from None
            if not isinstance(found, dict):
                raise _refused(f"Line {number} of the file is not a JSON object; each line must be one.")


def _described(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[list[str], list[str]]:
    rows = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
    if len(rows) > MAX_COLUMNS:
        raise _refused(f"The file has {len(rows)} columns; it may have {MAX_COLUMNS}.")
    return [row[0] for row in rows], [row[1] for row in rows]


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    # A digest of each column, so that each value is read: a count alone is taken from what a Parquet file says of itself.
    counts = connection.execute(f"SELECT count(*), bit_xor(hash(COLUMNS(*))) FROM {table}").fetchone()
    return int(counts[0]) if counts else 0


def _check_quotes(path: str) -> None:
    csv.field_size_limit(_MAX_LINE_BYTES)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for _ in reader:
                pass
        except csv.Error:
            raise _no_csv(reader.line_num) from None


def line_of(error: duckdb.Error) -> int:
    """The line that an error names, 0 for one that names none."""
    found = _LINE(str(error))
    return int(found[1]) if found else 0


def _header(path: str) -> list[str]:
    """The names in the first line, made unique as SQL needs them: without regard to case, blank ones numbered."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = next(csv.reader(file, strict=True), [])
    except csv.Error:
        raise _refused("The first line cannot be read as CSV; it must name the columns.") from None
    if not any(name.strip() for name in first):
        raise _refused("The first line is blank; it must name the columns, separated by commas.")
    if len(first) > MAX_COLUMNS:
        raise _refused(f"The file has {len(first)} columns; it may have {MAX_COLUMNS}.")
    names: list[str] = []
    taken: set[str] = set()
    for number, name in enumerate(first):
        plain = unique = name if name.strip() else f"column{number}"
        again = 0
        while unique.casefold() in taken:
            again += 1
            unique = f"{plain}_{again}"
        taken.add(unique.casefold())
        names.append(unique)
    return names


def _no_csv(line: int) -> Refused:
    where = f" near line {line}" if line else ""
    return _refused(
        f"The file cannot be read as CSV{where}: a row has more values than there are names, a quote is not closed, "
        "or the line ends are of two kinds."
    )


def _refused(message: str) -> Refused:
    return Refused("file", message)
