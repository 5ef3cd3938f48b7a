"""The tool that deletes a corpus of its user: for administration, and invisible without that scope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool


class CorpusDelete(Tool):
    """{"name"} → {"deleted": name}.

    Not idempotent: between a crash and a repetition the user may have uploaded another file under the name.
    """

    name: ClassVar = "corpus_delete"
    description: ClassVar = "Deletes one of your corpora and its file, for good."
    scopes: ClassVar = frozenset({"corpora.admin"})
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    needs_approval: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        await desk.delete_corpus(arguments["name"])
        return {"deleted": arguments["name"]}
