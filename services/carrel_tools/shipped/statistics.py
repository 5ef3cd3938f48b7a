"""The figures of one column of a corpus, computed in one pass. It knows no statement but its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool, ToolFailure

# Nearest rank in whole numbers: a float would take the wrong one where percent × n is just above a whole number.
_RANKED = "list_sort(list(value) FILTER (value IS NOT NULL))[(count(value) * {percent} + 99) // 100]"
_FIGURES = f"""
SELECT count(value) AS count,
  count(*) FILTER (text IS NULL) AS nulls,
  count(*) FILTER (text IS NOT NULL AND value IS NULL) AS unreadable,
  min(value) AS min, max(value) AS max, avg(value) AS mean,
  {_RANKED.format(percent=50)} AS p50,
  {_RANKED.format(percent=95)} AS p95
FROM (SELECT text, CASE WHEN isfinite(number) THEN number END AS value
      FROM (SELECT {{column}} AS text, TRY_CAST(trim(CAST({{column}} AS VARCHAR)) AS DOUBLE) AS number FROM {{corpus}}))
"""


class Statistics(Tool):
    """{"corpus", "column"} → {"count", "nulls", "unreadable", "min", "max", "mean", "p50", "p95"}."""

    name: ClassVar = "statistics"
    description: ClassVar = (
        "Counts the numbers in a column of a corpus: count, nulls (empty), unreadable (not a number), min, max, mean, and the "
        "percentiles p50 and p95 by nearest rank."
    )
    scopes: ClassVar = frozenset({"corpora.read"})
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"corpus": {"type": "string"}, "column": {"type": "string"}},
        "required": ["corpus", "column"],
        "additionalProperties": False,
    }
    reads_corpora: ClassVar = True
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        corpus, column = arguments["corpus"], arguments["column"]
        if corpus not in desk.corpora:
            raise ToolFailure("CORPUS_NOT_FOUND", f"You have no corpus {corpus[:128]}; upload it first.")
        if column not in desk.corpora[corpus]:
            names = ", ".join(desk.corpora[corpus])
            raise ToolFailure("COLUMN_NOT_FOUND", f"The corpus has no column {column[:60]}; it has {names[:300]}.")
        result = await desk.query(_FIGURES.format(corpus=_quoted(corpus), column=_quoted(column)), 1)
        return dict(zip(result["columns"], result["rows"][0], strict=True))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
