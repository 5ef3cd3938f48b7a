"""A proxy before PostgreSQL that lets one statement fail: it reads just enough of the protocol to know where statements begin and end.

A statement that is `REFUSED` is replaced by one that PostgreSQL itself refuses, so that what follows, such as the abort of the
transaction, is PostgreSQL's own. Of one that is `LOST` the answer is lost with the line, after it was done: of a commit that is
the case in which nobody knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from enum import Enum

_HEADER_BYTES = 5
_SSL_REQUEST = 80877103
_REFUSAL = b"DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = 'disk_full'; END $$\0"
_BATCH_ENDS = (b"S", b"H", b"Q")
"""Sync, Flush, Query: up to here a client sends before it waits for answers."""


class Failure(Enum):
    """How a statement fails."""

    REFUSED = "refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Statement:
    """One as it was executed. `place` counts those with the same text and of the same role since `arm`, from 1."""

    role: str
    sql: str
    place: int = 1


class FaultyPostgres:
    """Listens on a free port and passes everything on. Between `arm` and `disarm` it keeps the statements, and lets one fail."""

    def __init__(self, address: str) -> None:
        self.port = 0
        self._host, _, port = address.rpartition(":")
        self._to_port = int(port)
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._armed = False
        self._target: Statement | None = None
        self._failure = Failure.REFUSED
        self._seen: list[Statement] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    def arm(self, target: Statement | None = None, failure: Failure = Failure.REFUSED) -> None:
        """From now on statements are kept, and the target fails."""
        self._armed, self._target, self._failure, self._seen = True, target, failure, []

    @property
    def failed(self) -> bool:
        """Whether the target has come since `arm`."""
        return self._target in self._seen

    def disarm(self) -> list[Statement]:
        """The statements since `arm`, in the order in which they came."""
        self._armed = False
        return self._seen

    def failure_of(self, role: str, sql: str) -> Failure | None:
        """Keeps a statement and says whether, and how, it fails."""
        if not self._armed:
            return None
        place = 1 + sum((seen.role, seen.sql) == (role, sql) for seen in self._seen)
        self._seen.append(Statement(role, sql, place))
        return self._failure if self._seen[-1] == self._target else None

    async def _serve(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                server_source, server_sink = await asyncio.open_connection(self._host, self._to_port)
                try:
                    await _Line(self, source, sink, server_source, server_sink).run()
                finally:
                    server_sink.close()
        finally:
            self._lines.discard(task)
            sink.close()


class _Line:
    """One connection of a client, and the proxy's own to the server for it."""

    def __init__(
        self,
        proxy: FaultyPostgres,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        server_source: asyncio.StreamReader,
        server_sink: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._source, self._sink = source, sink
        self._server_source, self._server_sink = server_source, server_sink
        self._role = ""
        self._sql: dict[bytes, str] = {}
        """Of each prepared statement, by its name."""
        self._lost = False
        """The answer to what was sent last does not arrive."""

    async def run(self) -> None:
        """Until either side closes, or the answer is lost."""
        await self._open()
        ways = [asyncio.ensure_future(self._to_server()), asyncio.ensure_future(self._to_client())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _to_server(self) -> None:
        batch: list[tuple[bytes, bytes]] = []
        while True:
            kind, body = await _message(self._source)
            batch.append((kind, body))
            # A password, the end, or data: nothing of these is part of a statement.
            if kind in _BATCH_ENDS or kind in (b"p", b"X", b"d", b"c", b"f"):
                await self._send(batch)
                batch = []

    async def _open(self) -> None:
        """Passes on the first message, which has no type. A question for encryption, which may come before it, is answered with no."""
        while True:
            (size,) = struct.unpack("!I", head := await self._source.readexactly(4))
            body = await self._source.readexactly(size - 4)
            if struct.unpack("!I", body[:4])[0] != _SSL_REQUEST:
                break
            self._sink.write(b"N")
        self._server_sink.write(head + body)
        words = body[4:].split(b"\0")
        parameters = dict(zip(words[::2], words[1::2], strict=False))
        self._role = parameters.get(b"user", b"").decode()

    async def _send(self, batch: list[tuple[bytes, bytes]]) -> None:
        sql = self._executed(batch)
        failure = None if sql is None else self._proxy.failure_of(self._role, sql)
        if failure is Failure.REFUSED:
            batch = [(b"Q", _REFUSAL)]
        self._lost = failure is Failure.LOST
        for kind, body in batch:
            self._server_sink.write(kind + struct.pack("!I", len(body) + 4) + body)
        await self._server_sink.drain()

    def _executed(self, batch: list[tuple[bytes, bytes]]) -> str | None:
        """What the batch executes; None when it only prepares, or is no statement at all."""
        bound = b""
        for kind, body in batch:
            match kind:
                case b"Q":
                    return body.rstrip(b"\0").decode().strip()
                case b"P":
                    name, sql, _ = body.split(b"\0", 2)
                    self._sql[name] = " ".join(sql.decode().split())
                case b"B":
                    _, bound, _ = body.split(b"\0", 2)
                case b"E":
                    return self._sql.get(bound, "")
        return None

    async def _to_client(self) -> None:
        while True:
            kind, body = await _message(self._server_source)
            if self._lost:
                if kind == b"Z":  # done, committed if it was a commit: now the line breaks
                    return
                continue
            self._sink.write(kind + struct.pack("!I", len(body) + 4) + body)
            await self._sink.drain()


async def _message(source: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await source.readexactly(_HEADER_BYTES)
    (size,) = struct.unpack("!I", head[1:])
    return head[:1], await source.readexactly(size - 4)
