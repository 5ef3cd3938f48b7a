"""The service's side of the query processes: asks for one, waits its turn, ends it when nobody waits any more. It knows no SQL."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from carrel_tools.limits import Turns
from carrel_tools.sandbox.zygote import LENGTH

_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = f"import sys; sys.path[:0] = [{str(_ROOT)!r}]; from carrel_tools.sandbox.zygote import main; main()"

Owner = tuple[str, str]


class Sandbox:
    """Runs requests of `sandbox.reading` in processes of their own. Replaces the process they are forked from when it is gone."""

    def __init__(self, turns: Turns, memory_mb: int) -> None:
        self._turns = turns
        self._memory_mb = memory_mb
        self._starting = asyncio.Lock()
        self._process: Process | None = None
        self._control: socket.socket | None = None

    async def ask(self, owner: Owner, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer of `reading.answer`; {"refused": ["memory", ...]} when the process died of the request.

        `seconds` is when the process ends of itself. When this is cancelled it ends at once: it lives no longer than the line to it.
        """
        async with self._turns.turn(owner), self._line() as (reader, writer):
            message = json.dumps({**request, "memory_mb": self._memory_mb, "seconds": seconds}).encode()
            writer.write(LENGTH.pack(len(message)) + message)
            raw = await reader.read(-1)
        if not raw:
            return {"refused": ["memory", "The query needs more memory or time than it may use."]}
        answer: dict[str, Any] = json.loads(raw)
        return answer

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A line to a new process; closing it ends the process."""
        ours, theirs = socket.socketpair()
        with theirs:
            await self._hand_over(theirs)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _hand_over(self, line: socket.socket) -> None:
        for attempt in (1, 2):
            control = await self._started()
            try:
                socket.send_fds(control, [b"f"], [line.fileno()])
                return
            except OSError:
                if attempt == 2:
                    raise
                await self.close()

    async def _started(self) -> socket.socket:
        async with self._starting:  # many calls may find it gone at once: one of them starts it
            if self._control is None or self._process is None or self._process.returncode is not None:
                await self.close()
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._process = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-I", "-c", _PROGRAM, str(theirs.fileno())),
                        pass_fds=[theirs.fileno()],
                        env={},  # none of the service's secrets
                        stdin=DEVNULL,
                        stdout=DEVNULL,
                    )
                self._control = ours
            return self._control

    async def start(self) -> None:
        """Starts the process that the others are forked from; without this the first request does."""
        await self._started()

    async def close(self) -> None:
        """Ends that process; those forked from it end with their lines."""
        control, process, self._control, self._process = self._control, self._process, None, None
        if control is not None:
            control.close()
        if process is not None:
            await process.wait()
