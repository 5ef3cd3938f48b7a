"""What runs in the process of a query: CSV files read with DuckDB, and nothing else within reach. It knows no user."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

MAX_RESULT_BYTES = 1024 * 1024
MAX_COLUMNS = 1000
_FETCH_ROWS = 200
_MAX_LINE_BYTES = 2_000_000
"""DuckDB's own limit."""
# Statements that look at the catalog or build table names at run time see all corpora; others need those they name.
_LOOKS_AROUND = re.compile(r"show|query|information_schema|duckdb_|pg_|sqlite_|pragma_", re.IGNORECASE).search
_NO_TABLE = re.compile(r'Table with name "?(.+?)"? does not exist').search
_LINE = re.compile(r"CSV Error on Line: (\d+)").search


class Refused(Exception):
    """What a request cannot be given, as (kind, message)."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """{"result": ...} or {"refused": [kind, message]}; kinds: sql, table, size, csv, file, memory."""
    try:
        return {"result": _check(request) if request["do"] == "check" else _query(request)}
    except Refused as error:
        return {"refused": list(error.args)}
    except (duckdb.OutOfMemoryException, MemoryError):
        return {
            "refused": ["memory", f"The query needs more than the {request['memory_mb']} MiB of memory it may use."]
        }


def _check(request: dict[str, Any]) -> dict[str, Any]:
    """Reads the whole file; returns the names of its columns and the number of its rows."""
    path = request["path"]
    columns = _header(path)
    connection = _connect(request["memory_mb"])
    _give(connection, {}, "", path)
    try:
        rows = _count(connection, _source(path, columns, parallel=True))
    except duckdb.Error as error:
        if isinstance(error, duckdb.OutOfMemoryException):
            raise
        if "parallel scanner" not in str(error):
            raise _no_csv(_line_of(error)) from None
        # Line ends within quotes and rows that are too short: only DuckDB's serial scanner reads both, and it drops without a
        # word what follows a quote that is never closed. Python's reader finds that.
        _check_quotes(path)
        try:
            rows = _count(connection, _source(path, columns))
        except duckdb.InvalidInputException as second:
            raise _no_csv(_line_of(second)) from None
    return {"columns": columns, "rows": rows}


def _count(connection: duckdb.DuckDBPyConnection, source: str) -> int:
    # A count of each column, so that each value is read.
    counts = connection.execute(f"SELECT count(*), count(COLUMNS(*)) FROM {source}").fetchone()
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


def _line_of(error: duckdb.Error) -> int:
    found = _LINE(str(error))
    return int(found[1]) if found else 0


def _no_csv(line: int) -> Refused:
    where = f" near line {line}" if line else ""
    return Refused(
        "csv",
        f"The file cannot be read as CSV{where}: a row has more values than there are names, a quote is not closed, "
        "or the line ends are of two kinds.",
    )


def _header(path: str) -> list[str]:
    """The names in the first line, made unique as SQL needs them: without regard to case, blank ones numbered."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = next(csv.reader(file, strict=True), [])
    except csv.Error:
        raise Refused("csv", "The first line cannot be read as CSV; it must name the columns.") from None
    if not any(name.strip() for name in first):
        raise Refused("csv", "The first line is blank; it must name the columns, separated by commas.")
    if len(first) > MAX_COLUMNS:
        raise Refused("csv", f"The file has {len(first)} columns; it may have {MAX_COLUMNS}.")
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


def _query(request: dict[str, Any]) -> dict[str, Any]:
    connection = _connect(request["memory_mb"])
    statement = _statement(connection, request["sql"])
    try:
        _give(connection, request["corpora"], statement)
        cursor = connection.execute(statement)
        types = [(name, str(kind)) for name, kind, *_ in cursor.description or []]
        if any("WITH TIME ZONE" in kind for _, kind in types):
            # Python would need a package for zones; DuckDB can write such a time itself.
            cursor = connection.execute(_zones_as_text(statement, [kind for _, kind in types]))
        rows, truncated = _rows(cursor, request["max_rows"])
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.IOException:
        raise Refused("file", "A corpus was replaced or deleted while it was read; ask again in a new step.") from None
    except duckdb.Error as error:
        raise _refusal(error, request) from None
    return {"columns": [name for name, _ in types], "rows": rows, "truncated": truncated}


def _statement(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """The one statement in `sql`, without its semicolon, if it is one that only reads."""
    try:
        found = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise Refused("sql", _first_line(error)) from None
    if len(found) != 1 or found[0].type.name != "SELECT":
        raise Refused("sql", "Give one statement that reads: SELECT, WITH, DESCRIBE, SUMMARIZE or SHOW TABLES.")
    return str(found[0].query)


def _connect(memory_mb: int) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        ":memory:",
        config={
            "threads": "1",
            "memory_limit": f"{memory_mb}MiB",
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",  # a table name is never a Python variable
        },
    )


def _give(connection: duckdb.DuckDBPyConnection, corpora: dict[str, Any], statement: str, *more: str) -> None:
    """Makes views of the corpora; from now on no other file can be reached, nor can the database be told otherwise."""
    paths = ", ".join(_text(path) for path in (*(corpus["path"] for corpus in corpora.values()), *more))
    connection.execute(f"SET allowed_paths = [{paths}]")
    connection.execute("SET enable_external_access = false")
    for name in _named(statement, corpora):
        connection.execute(f"CREATE VIEW {_identifier(name)} AS SELECT * FROM {_source(**corpora[name])}")
    connection.execute("SET lock_configuration = true")


def _named(statement: str, corpora: dict[str, Any]) -> Sequence[str]:
    text = statement.casefold()
    named = [name for name in corpora if name.casefold() in text]
    return list(corpora) if _LOOKS_AROUND(statement) else named


def _source(path: str, columns: list[str], *, parallel: bool = False) -> str:
    # Nothing is guessed: the dialect is RFC 4180 and the columns are those of the upload, so a file always reads the same.
    names = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in columns)
    return (
        f"read_csv({_text(path)}, auto_detect = false, columns = {{{names}}}, header = true, delim = ',', quote = '\"', "
        f"escape = '\"', comment = '', nullstr = '', null_padding = true, parallel = {parallel}, encoding = 'utf-8')"
    )


def _zones_as_text(statement: str, kinds: list[str]) -> str:
    names = [f"c{number}" for number in range(len(kinds))]
    shown = [
        f"CAST({name} AS VARCHAR)" if "WITH TIME ZONE" in kind else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    return f"SELECT {', '.join(shown)} FROM ({statement.strip().rstrip(';')}\n) AS t({', '.join(names)})"


def _rows(cursor: duckdb.DuckDBPyConnection, max_rows: int) -> tuple[list[list[Any]], bool]:
    rows: list[list[Any]] = []
    size = 0
    while batch := cursor.fetchmany(_FETCH_ROWS):
        for row in batch:
            if len(rows) == max_rows:
                return rows, True
            rows.append([_json(value) for value in row])
            size += len(json.dumps(rows[-1], ensure_ascii=False).encode())
            if size > MAX_RESULT_BYTES:
                raise Refused("size", f"The result has more than {MAX_RESULT_BYTES} bytes; select less.")
    return rows, False


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


def _refusal(error: duckdb.Error, request: dict[str, Any]) -> Refused:
    message = str(error)
    if isinstance(error, duckdb.CatalogException) and (missing := _NO_TABLE(message)):
        return Refused("table", missing[1])
    for name, corpus in request["corpora"].items():
        message = message.replace(corpus["path"], name)  # where files lie is nobody's business
    if line := _line_of(error):
        return Refused("sql", f"The corpus cannot be read as CSV near line {line}.")
    return Refused("sql", message.partition("\n")[0])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _text(value: str | Path) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
