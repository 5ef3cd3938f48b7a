"""Files on their way out: the messages of a download as the body of an answer, no faster than it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from carrel.api.gateway.v1 import gateway_service_pb2 as pb
from carrel.api.tools.v1.tool_pb2 import Corpus

Messages = AsyncGenerator[bytes, None]


async def file_answer(messages: Messages, offset: int) -> Response:
    """The answer to a download: its first message, the corpus, makes the head, and what is refused is a problem."""
    try:
        first = pb.DownloadCorpusResponse.FromString(await anext(messages))
    except BaseException:
        await messages.aclose()
        raise
    return _File(first.corpus, messages, offset)


class _File(Response):
    """Sends the chunks as they come. One that breaks off is shorter than its head has said, and so its reader knows."""

    def __init__(self, corpus: Corpus, messages: Messages, offset: int) -> None:
        super().__init__()
        length = max(0, corpus.size_bytes - offset)
        self._head = [
            (b"content-type", corpus.media_type.encode()),
            (b"content-length", str(length).encode()),
            (b"etag", f'"{corpus.sha256}"'.encode()),
            (b"carrel-corpus-id", corpus.corpus_id.encode()),
            (b"content-disposition", f'attachment; filename="{corpus.name}"'.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        self._messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._messages) as messages:
            await send({"type": "http.response.start", "status": 200, "headers": self._head})
            if scope["method"] != "HEAD":
                async for message in messages:
                    chunk = pb.DownloadCorpusResponse.FromString(message).chunk
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
