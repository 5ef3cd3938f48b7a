"""Pages of hosts that the operator has allowed. Which those are, and at which addresses, is the desk's business."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import ClassVar

from carrel_tools.tool import JSON, Desk, Tool

MAX_BYTES = 512 * 1024


class HttpFetch(Tool):
    """{"url", "max_bytes"?} → {"state", "url", "media_type", "text"} or, for what is no text, "content_base64"."""

    name: ClassVar = "http_fetch"
    description: ClassVar = (
        "Gets a page by GET from one of the hosts that the operator has allowed; redirects to other hosts are refused. `state` is the HTTP "
        "status code. Returns at most 512 KiB."
    )
    scopes: ClassVar = frozenset({"tools.use"})
    arguments_schema: ClassVar = {
        "type": "object",
        "properties": {
            "url": {"type": "string", "minLength": 1, "maxLength": 4096},
            "max_bytes": {"type": "integer", "minimum": 1, "maximum": MAX_BYTES},
        },
        "required": ["url"],
        "additionalProperties": False,
    }
    network: ClassVar = True
    idempotent: ClassVar = True

    async def execute(self, arguments: Mapping[str, JSON], desk: Desk) -> JSON:
        page = await desk.fetch(arguments["url"], arguments.get("max_bytes", MAX_BYTES))
        content: bytes = page.pop("content")
        try:
            return {**page, "text": content.decode()}
        except UnicodeDecodeError:
            return {**page, "content_base64": base64.b64encode(content).decode()}
