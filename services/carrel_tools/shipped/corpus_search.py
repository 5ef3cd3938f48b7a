"""Full-text search over the user's corpora. It knows no index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool


class CorpusSearch(Tool):
    """{"words", "corpora"?, "offset"?, "max_hits"?} →
    {"hits": [{"corpus", "place", "score", "snippet"}], "searched", "truncated", "next"}."""

    name: ClassVar = "corpus_search"
    description: ClassVar = (
        "Finds the rows and passages of your corpora that fit some words best (BM25, English word stems): those with all the words, or "
        "else with some. `place` is the row of a table, or the first line of a passage of a text; found words stand between **. "
        "Returns `max_hits` hits (10); `next` is the `offset` of those that follow, or null."
    )
    scopes: ClassVar = frozenset({"corpora.read"})
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {
            "words": {"type": "string", "minLength": 1, "maxLength": 1000},
            "corpora": {"type": "array", "items": {"type": "string"}, "maxItems": 200, "uniqueItems": True},
            "offset": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
            "max_hits": {"type": "integer", "minimum": 1, "maximum": 100},
        },
        "required": ["words"],
        "additionalProperties": False,
    }
    reads_corpora: ClassVar = True
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        corpora, offset = arguments.get("corpora", ()), arguments.get("offset", 0)
        return await desk.search(arguments["words"], corpora, arguments.get("max_hits", 10), offset)
