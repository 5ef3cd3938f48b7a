"""A server that speaks the OpenAI chat API over HTTP, and does what a test has told it: it streams, calls tools, refuses, breaks off."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

PROMPT_TOKENS = 11


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    text: str = ""
    """Streamed word by word; each is one token."""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    """Tools that the model wants called, with their arguments."""
    code: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    error: str = ""
    """What the body of an error says."""
    drop_after: int | None = None
    """The connection is cut after so many words."""
    word_seconds: float = 0.0
    """Before each word."""
    held: asyncio.Event | None = None
    """The last word waits for it."""


@dataclass
class OpenAiServer:
    """Requests are answered in the order of `replies`, by model; without one by "Hello there."."""

    replies: dict[str, deque[Reply]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The authorization header of each request."""
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def will(self, model: str, *replies: Reply) -> None:
        """What the next requests to a model meet."""
        self.replies.setdefault(model, deque()).extend(replies)

    def of(self, model: str) -> list[dict[str, Any]]:
        """The requests to a model."""
        return [request for request in self.requests if request["model"] == model]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                body = json.loads(await reader.readexactly(int(head["content-length"])))
                self.requests.append(body)
                self.keys.append(head.get("authorization", ""))
                script = self.replies.get(body["model"])
                if not await _answer(writer, body, script.popleft() if script else Reply("Hello there.")):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def openai_server() -> AsyncIterator[OpenAiServer]:
    """A server on a free port, for the length of the block."""
    ours = OpenAiServer()
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(ours.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    ours.port = server.sockets[0].getsockname()[1]
    try:
        yield ours
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _head(reader: asyncio.StreamReader) -> dict[str, str]:
    line = await reader.readline()
    assert not line or line.startswith(b"POST /v1/chat/completions "), line
    fields = {}
    while line and (each := (await reader.readline()).decode().strip()):
        name, _, value = each.partition(":")
        fields[name.lower()] = value.strip()
    return fields


async def _answer(writer: asyncio.StreamWriter, body: dict[str, Any], reply: Reply) -> bool:
    """Answers one request; false when the connection is to be cut."""
    if reply.code != 200:
        content = json.dumps({"error": {"message": reply.error, "type": "error"}}).encode()
        _write_head(writer, reply.code, "application/json", f"content-length: {len(content)}", reply.headers)
        writer.write(content)
        await writer.drain()
        return True
    assert body["stream"] is True
    _write_head(writer, 200, "text/event-stream", "transfer-encoding: chunked", reply.headers)
    words = reply.text.split(" ") if reply.text else []
    for number, word in enumerate(words):
        if reply.drop_after == number:
            writer.transport.abort()
            return False
        await asyncio.sleep(reply.word_seconds)
        if reply.held is not None and number == len(words) - 1:
            await reply.held.wait()
        _write_delta(writer, body, {"role": "assistant", "content": word if number == 0 else f" {word}"})
        await writer.drain()
    for index, (name, arguments) in enumerate(reply.calls):
        function = {"name": name, "arguments": json.dumps(arguments)}
        _write_delta(
            writer,
            body,
            {"tool_calls": [{"index": index, "id": f"call-{index}", "type": "function", "function": function}]},
        )
    _write_delta(writer, body, {}, finish_reason="tool_calls" if reply.calls else "stop")
    tokens = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": len(words) + len(reply.calls)}
    _write_event(writer, body, choices=[], usage={**tokens, "total_tokens": sum(tokens.values())})
    _write_chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _write_head(
    writer: asyncio.StreamWriter, code: int, media_type: str, length: str, headers: tuple[tuple[str, str], ...]
) -> None:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers)
    writer.write(f"HTTP/1.1 {code} X\r\ncontent-type: {media_type}\r\n{length}\r\n{more}\r\n".encode())


def _write_delta(
    writer: asyncio.StreamWriter, body: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None
) -> None:
    _write_event(writer, body, choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def _write_event(writer: asyncio.StreamWriter, body: dict[str, Any], **values: Any) -> None:
    event = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], **values}
    _write_chunk(writer, f"data: {json.dumps(event)}\n\n".encode())


def _write_chunk(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
