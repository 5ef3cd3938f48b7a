"""SQL over the user's corpora. It knows the statement; how it is kept within its bounds is the desk's business."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool

MAX_ROWS = 10_000
MAX_OFFSET = 10_000_000


class SqlQuery(Tool):
    """{"sql", "offset"?, "max_rows"?} → {"columns", "rows", "truncated", "next"}."""

    name: ClassVar = "sql_query"
    description: ClassVar = (
        "Runs one SELECT (DuckDB's SQL; also WITH, DESCRIBE, SUMMARIZE, SHOW TABLES) over your corpora. Each corpus is a table of its "
        "name. All columns of a CSV are text: cast what you count; those of Parquet and JSON lines have types; a text has `line` and "
        "`text`. Returns at most `max_rows` rows (10,000) and 1 MiB; `truncated` says whether there are more, and `next` is the `offset` "
        "to ask for them with: each page runs the statement anew, so give it an ORDER BY. Times are ISO strings; numbers that JSON "
        "lacks, such as NaN, are null."
    )
    scopes: ClassVar = frozenset({"corpora.read"})
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {
            "sql": {"type": "string", "minLength": 1, "maxLength": 100_000},
            "offset": {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET},
            "max_rows": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS},
        },
        "required": ["sql"],
        "additionalProperties": False,
    }
    reads_corpora: ClassVar = True
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        return await desk.query(arguments["sql"], arguments.get("max_rows", MAX_ROWS), arguments.get("offset", 0))
