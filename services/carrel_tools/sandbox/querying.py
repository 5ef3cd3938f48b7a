"""One statement that reads, over the corpora of one call. It knows no user."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import duckdb

from carrel_chassis.sandbox.zygote import Place
from carrel_tools.formats import identifier, source
from carrel_tools.sandbox.checking import line_of
from carrel_tools.sandbox.duck import Refused, connect, give, guarded, lock

MAX_RESULT_BYTES = 1024 * 1024
_ROOM_BYTES = 200
"""What a result takes beside its columns and rows."""
_FETCH_ROWS = 200
_NO_TABLE = re.compile(r'Table with name "?(.+?)"? does not exist').search


def query(request: dict[str, Any], place: Place) -> dict[str, Any]:
    """{"sql", "offset", "max_rows", "memory_mb", "corpora": {name: {"file", "media_type", "columns", "types"}}} →
    {"columns", "rows", "truncated", "next"}: the rows from `offset` on, as many as are asked for and fit; "next" is the offset of those
    that follow, null when there are none.

    "file" is the number of a file of the call, null for a corpus that the statement does not name. Refused with the kinds sql, table,
    size (one row is too large), memory.
    """
    return guarded(lambda: _query(request, place))


def _query(request: dict[str, Any], place: Place) -> dict[str, Any]:
    connection = connect(request["memory_mb"])
    statement = _statement(connection, request["sql"])
    try:
        _open_tables(connection, request["corpora"], place)
        cursor = connection.execute(statement)
        types = [(name, str(kind)) for name, kind, *_ in cursor.description or []]
        if any("WITH TIME ZONE" in kind for _, kind in types):
            # Python would need a package for zones; DuckDB can write such a time itself.
            cursor = connection.execute(_zones_as_text(statement, [kind for _, kind in types]))
        columns = [name for name, _ in types]
        room = MAX_RESULT_BYTES - _ROOM_BYTES - _size(columns)
        rows, more = _rows(cursor, request["offset"], request["max_rows"], room)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise _refusal(error, request["corpora"], place) from None
    following = request["offset"] + len(rows) if more else None
    return {"columns": columns, "rows": rows, "truncated": more, "next": following}


def _statement(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """The one statement in `sql`, without its semicolon, if it is one that only reads."""
    try:
        found = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise Refused("sql", str(error).partition("\n")[0]) from None
    if len(found) != 1 or found[0].type.name != "SELECT":
        raise Refused("sql", "Give one statement that reads: SELECT, WITH, DESCRIBE, SUMMARIZE or SHOW TABLES.")
    return str(found[0].query)


def _open_tables(connection: duckdb.DuckDBPyConnection, corpora: Mapping[str, Any], place: Place) -> None:
    """Makes a view of each corpus that came, and an empty table for each that did not: catalogs show all."""
    give(connection, [place.path(number) for number in range(len(place.files))])
    for name, corpus in corpora.items():
        if corpus["file"] is None:
            kinds = zip(corpus["columns"], corpus["types"], strict=True)
            connection.execute(
                f"CREATE TABLE {identifier(name)} ({', '.join(f'{identifier(column)} {kind}' for column, kind in kinds)})"
            )
        else:
            path = place.path(corpus["file"])
            table = source(corpus["media_type"], path, corpus["columns"], corpus["types"])
            connection.execute(f"CREATE VIEW {identifier(name)} AS SELECT * FROM {table}")
    lock(connection)


def _zones_as_text(statement: str, kinds: list[str]) -> str:
    names = [f"c{number}" for number in range(len(kinds))]
    shown = [
        f"CAST({name} AS VARCHAR)" if "WITH TIME ZONE" in kind else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    return f"SELECT {', '.join(shown)} FROM ({statement.strip().rstrip(';')}\n) AS t({', '.join(names)})"


def _rows(cursor: duckdb.DuckDBPyConnection, offset: int, max_rows: int, room: int) -> tuple[list[list[Any]], bool]:
    """The rows of a page, and whether there are more."""
    rows: list[list[Any]] = []
    while batch := cursor.fetchmany(_FETCH_ROWS):
        passed = min(offset, len(batch))
        offset -= passed
        for row in batch[passed:]:
            if len(rows) == max_rows:
                return rows, True
            shown = [_json(value) for value in row]
            room -= _size(shown)
            if room < 0:
                if not rows:
                    raise Refused("size", f"A row has more than {MAX_RESULT_BYTES} bytes; select less of it.")
                return rows, True
            rows.append(shown)
    return rows, False


def _size(values: list[Any]) -> int:
    return len(json.dumps(values, ensure_ascii=False).encode())


def _json(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case date() | datetime() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_json(each) for each in value]
        case dict():
            return {str(key): _json(each) for key, each in value.items()}
        case _:
            return str(value)


def _refusal(error: duckdb.Error, corpora: Mapping[str, Any], place: Place) -> Refused:
    message = str(error)
    if isinstance(error, duckdb.CatalogException) and (missing := _NO_TABLE(message)):
        return Refused("table", missing[1])
    for name, corpus in corpora.items():
        if corpus["file"] is not None:  # where files lie is nobody's business
            message = message.replace(place.path(corpus["file"]), name)
    if isinstance(error, duckdb.InvalidInputException) and (line := line_of(error)):
        return Refused("sql", f"The corpus cannot be read near line {line}.")
    return Refused("sql", message.partition("\n")[0])
