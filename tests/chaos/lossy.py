"""A proxy before NATS that loses messages on purpose: it reads just enough of the protocol to leave one out cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import random

_COPIES = b"carrel.events."


class LossyNats:
    """Listens on a free port and passes everything on, but for a share of the copies on their way to a service."""

    def __init__(self, address: str) -> None:
        self.share = 0.0
        """Which part of the copies is lost."""
        self.lost = 0
        self.port = 0
        self.random = random.Random()
        self._host, _, port = address.rpartition(":")
        self._to_port = int(port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.close()

    async def _serve(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        self._open.add(sink)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                server_source, server_sink = await asyncio.open_connection(self._host, self._to_port)
                self._open.add(server_sink)
                try:
                    await _first_of(_pump(source, server_sink), self._pump_messages(server_source, sink))
                finally:
                    self._open.discard(server_sink)
                    server_sink.close()
        finally:
            self._open.discard(sink)
            sink.close()

    async def _pump_messages(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while line := await source.readline():
            if line.startswith(b"MSG "):
                _, subject, *_, size = line.split()
                line += await source.readexactly(int(size) + 2)
                if subject.startswith(_COPIES) and self.random.random() < self.share:
                    self.lost += 1
                    continue
            sink.write(line)
            await sink.drain()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(64 * 1024):
        sink.write(data)
        await sink.drain()


async def _first_of(*parts: object) -> None:
    tasks = [asyncio.ensure_future(part) for part in parts]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
