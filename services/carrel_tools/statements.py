"""Which corpora a statement needs. It reads names in text and parses nothing: to give one too many does no harm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CATALOG = re.compile(r"show|describe|summarize|information_schema|duckdb_|pg_|sqlite_|pragma_", re.IGNORECASE).search
_BUILDS_NAMES = re.compile(r"\bquery(_table)?\s*\(", re.IGNORECASE).search


def needed(statement: str, names: Iterable[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The corpora whose content the statement may read, and those that it may see in the catalog without content."""
    every = list(names)
    if _BUILDS_NAMES(statement):
        return every, ()
    text = statement.casefold()
    named = [name for name in every if name.casefold() in text]
    rest = [name for name in every if name not in set(named)] if _CATALOG(statement) else ()
    return named, rest
