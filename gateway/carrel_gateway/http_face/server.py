"""The HTTP server: uvicorn within the gateway's own loop, stopped by the gateway and not by signals of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from carrel_gateway.http_face.connections import MAX_HEAD_BYTES, guarded

BACKLOG = 2048


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an application on `listen`, "host:port"; port 0 takes a free one, see `port`."""

    def __init__(
        self,
        app: ASGIApp,
        listen: str,
        drain_seconds: float,
        on_end: Callable[[], None],
        *,
        most_connections: int,
        head_seconds: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port = 0
        self._listen = listen
        self._on_end = on_end
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                # httptools is faster and keeps headers of any length: 30 MB of one, from anybody, were kept in a test.
                http=guarded(most_connections, head_seconds),
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                log_config=None,
                access_log=False,
                # Of each bad request it would write a line: who sends many of them would fill the log.
                log_level="error",
                server_header=False,
                ssl_context_factory=None if tls is None else lambda *_: tls,
                timeout_graceful_shutdown=max(1, round(drain_seconds)),
            )
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Binds the address and serves; raises OSError with a sentence when it cannot. `on_end` is called when it ends by itself."""
        bound = _bind(self._listen)
        self.port = bound.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]))
        self._task.add_done_callback(lambda _: self._on_end())

    async def stop(self) -> None:
        """Takes no new connections and lets requests in flight end; streams must have been ended before."""
        if self._task is not None:
            self._server.should_exit = True
            await self._task


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not port.isdecimal():
        raise OSError(f"{listen} is no address; HTTP_LISTEN must be host:port.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except OSError as error:
        raise OSError(f"HTTP cannot listen on {listen} ({error.strerror}); choose another port.") from None
    bound.setblocking(False)
    return bound
