"""DuckDB with nothing within its reach but the files it is given. It knows no format and no statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import duckdb

from carrel_tools.formats import quoted


class Refused(Exception):
    """What a request cannot be given, as (kind, message)."""


def guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """{"result": ...} or {"refused": [kind, message]}."""
    try:
        return {"result": work()}
    except Refused as error:
        return {"refused": list(error.args)}
    except (duckdb.OutOfMemoryException, MemoryError):
        return {"refused": ["memory", "It needs more memory than it may use."]}


def connect(memory_mb: int) -> duckdb.DuckDBPyConnection:
    """A database in memory."""
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


def give(connection: duckdb.DuckDBPyConnection, paths: Iterable[str]) -> None:
    """From now on no other file can be reached."""
    connection.execute(f"SET allowed_paths = [{', '.join(map(quoted, paths))}]")
    connection.execute("SET enable_external_access = false")


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """From now on the database cannot be told otherwise."""
    connection.execute("SET lock_configuration = true")
