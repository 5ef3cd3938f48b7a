"""The Python interpreter for code of others. It knows what goes in and comes out; the sandbox knows how it is shut in."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool, ToolFailure

_RUN = "carrel_tools.sandbox.interpreter:run"
_DISK_MB = 64


class Python(Tool):
    """{"code", "corpora"?, "arguments"?, "memory_mb"?, "keep"?} → {"value", "stdout", "stderr", "truncated", "error", "files"}.

    Idempotent: the code reaches nothing but its own folder, and to store the same file again changes nothing.
    """

    name: ClassVar = "python"
    description: ClassVar = (
        "Runs Python 3 code in a process of its own, without network and without other files. Each corpus named in `corpora` lies in "
        "the working directory under its name and its format's suffix (sales.csv, log.jsonl, trace.parquet), read only; `arguments` is "
        "a global. duckdb and the standard library can be imported; threads and programs cannot be started. Returns the value of a last "
        "line that is an expression, what was printed (64 KiB each), the error that was raised, and the files that were written: small "
        "ones with their content, and each of those named in `keep` is stored as a corpus of that name."
    )
    scopes: ClassVar = frozenset({"corpora.read", "corpora.write"})
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {
            "code": {"type": "string", "minLength": 1, "maxLength": 200_000},
            "corpora": {"type": "array", "items": {"type": "string"}, "maxItems": 50, "uniqueItems": True},
            "arguments": {"type": "object"},
            "memory_mb": {"type": "integer", "minimum": 32, "maximum": 1024},
            "keep": {
                "type": "object",
                "maxProperties": 10,
                "additionalProperties": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "media_type": {"type": "string"}},
                    "required": ["name", "media_type"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["code"],
        "additionalProperties": False,
    }
    reads_corpora: ClassVar = True
    sandbox_level: ClassVar = 2
    idempotent: ClassVar = True
    tells_progress: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        keep = arguments.get("keep", {})
        request = {"code": arguments["code"], "arguments": arguments.get("arguments", {}), "keep": list(keep)}
        memory_mb = arguments.get("memory_mb", 256)
        result = await desk.run_sandboxed(
            _RUN, request, corpora=arguments.get("corpora", ()), memory_mb=memory_mb, disk_mb=_DISK_MB
        )
        contents = result.pop("kept")
        for stored, (file, corpus) in enumerate(keep.items()):
            if file not in contents:
                raise ToolFailure("FILE_MISSING", f"The code left no file {file[:100]} of at most 8 MiB to keep.")
            desk.progress(f"The code has run; storing {corpus['name']}.", stored, len(keep))
            content = base64.b64decode(contents[file])
            await desk.save_corpus(corpus["name"], corpus["media_type"], content, replace=True)
        return result
