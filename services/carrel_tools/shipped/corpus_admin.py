"""The administration of the user's own corpora: for administrators, and invisible without that scope."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, ClassVar

from carrel_tools.formats import MEDIA_TYPES
from carrel_tools.tool import JSON, Desk, Tool, ToolFailure

MAX_BYTES = 512 * 1024
_DESTRUCTIVE = ("update", "delete")
_NAME = {"type": "string", "minLength": 1, "maxLength": 128}
_CONTENT = {
    "name": _NAME,
    "media_type": {"enum": list(MEDIA_TYPES)},
    "text": {"type": "string"},
    "content_base64": {"type": "string"},
}


def _action(name: str, properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"action": {"const": name}, **properties},
        "required": ["action", *required],
        "additionalProperties": False,
    }


class CorpusAdmin(Tool):
    """{"action", ...} → what became of the corpus.

    create, import {"name", "media_type", "text" | "content_base64"}; import replaces what is there.
    update {"name", "new_name"}; delete {"name"}; export, validate {"name"}; list {}.
    Not idempotent: between a crash and a repetition the user may have stored another file under the name.
    """

    name: ClassVar = "corpus_admin"
    description: ClassVar = (
        "Creates, renames (update), deletes, exports, imports, validates or lists your corpora. create refuses a name that is taken, "
        "import replaces what is there; content is `text`, or `content_base64` for Parquet. Content that comes or goes by this tool has "
        "at most 512 KiB."
    )
    scopes: ClassVar = frozenset({"corpora.admin", "corpora.write"})
    arguments_schema: ClassVar = {
        "type": "object",
        "oneOf": [
            _action("list", {}),
            _action("create", _CONTENT, "name", "media_type"),
            _action("import", _CONTENT, "name", "media_type"),
            _action("update", {"name": _NAME, "new_name": _NAME}, "name", "new_name"),
            _action("delete", {"name": _NAME}, "name"),
            _action("export", {"name": _NAME}, "name"),
            _action("validate", {"name": _NAME}, "name"),
        ],
    }
    reads_corpora: ClassVar = True

    @classmethod
    def asks_approval(cls, arguments: Mapping[str, JSON]) -> bool:
        return arguments.get("action") in _DESTRUCTIVE

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        name = arguments.get("name", "")
        match arguments["action"]:
            case "list":
                return {"corpora": [{"name": each, "columns": [*columns]} for each, columns in desk.corpora.items()]}
            case "create" | "import":
                replace = arguments["action"] == "import"
                return await desk.save_corpus(name, arguments["media_type"], _content(arguments), replace=replace)
            case "update":
                await desk.rename_corpus(name, arguments["new_name"])
                return {"name": arguments["new_name"], "before": name}
            case "delete":
                await desk.delete_corpus(name)
                return {"deleted": name}
            case "export":
                content = await desk.read_corpus(name, MAX_BYTES)
                try:
                    return {"name": name, "text": content.decode()}
                except UnicodeDecodeError:
                    return {"name": name, "content_base64": base64.b64encode(content).decode()}
            case _:
                return {"name": name, **await desk.check_corpus(name)}


def _content(arguments: Mapping[str, JSON]) -> bytes:
    if ("text" in arguments) == ("content_base64" in arguments):
        raise ToolFailure("CONTENT_MISSING", "Give the content either as text or as content_base64.")
    try:
        content = (
            arguments["text"].encode()
            if "text" in arguments
            else base64.b64decode(arguments["content_base64"], validate=True)
        )
    except (binascii.Error, UnicodeEncodeError):
        raise ToolFailure("CONTENT_INVALID", "content_base64 is not base64, or text is not Unicode.") from None
    if len(content) > MAX_BYTES:
        raise ToolFailure("TOO_LARGE", f"The content has {len(content)} bytes; by a tool it may have {MAX_BYTES}.")
    return bytes(content)
