"""The service's side of the sandbox: asks for a process, hands it the work, and hears how it ended. It knows no user and no tool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import sys
import sysconfig
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from carrel_chassis.logs import get_logger
from carrel_chassis.sandbox.bounds import Bounds
from carrel_chassis.sandbox.bubblewrap import command
from carrel_chassis.sandbox.level import Level
from carrel_chassis.sandbox.zygote import LENGTH, MAX_FILES

_PROGRAM = "import sys; sys.path[:0] = {path!r}; from carrel_chassis.sandbox.zygote import main; main()"
_REPORT_BYTES = 2**16
_START_SECONDS = 30.0
# What may be read at every level: the standard library, what is installed, and the libraries that these load.
_CODE = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")

End = Literal["answered", "time", "memory", "disk", "flood", "crashed"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used, as the kernel counted it."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    """At the most at one time, what it shares with others included."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended; `answer` is there when it was answered."""

    end: End
    answer: dict[str, Any] | None
    usage: Usage
    signal: int = 0
    """What ended it, when a signal did."""


class Pool:
    """Runs calls of `modules`, each in a process of its own at `level`. Replaces the process they are forked from when it is gone.

    `modules` are imported once, in that process, from `source_roots`; a call is named "module:function" and is a `zygote.Call`.
    """

    def __init__(self, modules: Sequence[str], level: Level, source_roots: Sequence[Path] = ()) -> None:
        self._modules = modules
        self._level = level
        self._source_roots = source_roots
        self._starting = asyncio.Lock()
        self._process: Process | None = None
        self._control: socket.socket | None = None

    @property
    def level(self) -> Level:
        """What each call is shut in by."""
        return self._level

    async def run(self, call: str, request: Mapping[str, Any], bounds: Bounds, files: Sequence[int] = ()) -> Outcome:
        """Answers the call; never raises for what the call does. When this is cancelled, its process is killed at once.

        `files` are descriptors, at most 240; they stay the caller's to close.
        """
        message = json.dumps({**request, "call": call}).encode()
        async with self._lines(bounds, files) as (line, report):
            reader, writer = line
            with contextlib.suppress(ConnectionError):  # it is gone already: its report says why
                writer.write(LENGTH.pack(len(message)) + message)
            raw = await _read_most(reader, bounds.answer_bytes)
            if raw is None:
                report[1].write_eof()  # who watches it ends it
            told = await _read_most(report[0], _REPORT_BYTES)
        outcome = _outcome(raw, json.loads(told) if told else {})
        if outcome.end == "crashed":
            get_logger().warning(
                "sandbox.crashed", call=call, signal=outcome.signal, place=(raw or b"")[:200].decode(errors="replace")
            )
        return outcome

    @asynccontextmanager
    async def _lines(self, bounds: Bounds, files: Sequence[int]) -> AsyncIterator[tuple[_Line, _Line]]:
        """Lines to a new process and to who watches it; closing them ends the process."""
        line, their_line = socket.socketpair()
        report, their_report = socket.socketpair()
        order = json.dumps({"level": int(self._level), "bounds": asdict(bounds)}).encode()
        with their_line, their_report:
            await self._hand_over(order, [their_line.fileno(), their_report.fileno(), *files])
        opened = [await asyncio.open_unix_connection(sock=each, limit=2**20) for each in (line, report)]
        try:
            yield opened[0], opened[1]
        finally:
            for _, writer in opened:
                writer.transport.abort()

    async def _hand_over(self, order: bytes, descriptors: list[int]) -> None:
        if len(descriptors) > MAX_FILES + 2:
            raise ValueError(f"a call takes at most {MAX_FILES} files")
        for attempt in (1, 2):
            control = await self._started()
            try:
                socket.send_fds(control, [order], descriptors)
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
                        *self._command(theirs.fileno()),
                        pass_fds=[theirs.fileno()],
                        env={},  # none of the service's secrets
                        stdin=DEVNULL,
                        stdout=DEVNULL,
                    )
                await _ready(ours)
                self._control = ours
            return self._control

    def _command(self, descriptor: int) -> list[str]:
        path = [str(root) for root in (_ROOT, *self._source_roots)]
        readable = list(dict.fromkeys([*map(sysconfig.get_path, _CODE), *_LIBRARIES]))
        program = [sys.executable, "-I", "-c", _PROGRAM.format(path=path), str(descriptor)]
        program += [":".join(self._modules), ":".join(readable)]
        if self._level < Level.NAMESPACES:
            return program
        return [*command(shutil.which("bwrap") or "bwrap", [Path(each) for each in path]), *program]

    async def start(self) -> None:
        """Starts the process that the others are forked from; without this the first call does."""
        await self._started()

    async def close(self) -> None:
        """Ends that process and all that was forked from it."""
        control, process, self._control, self._process = self._control, self._process, None, None
        if control is not None:
            control.close()
        if process is not None:
            await process.wait()


_ROOT = Path(__file__).resolve().parents[2]
_Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _ready(control: socket.socket) -> None:
    control.setblocking(False)
    async with asyncio.timeout(_START_SECONDS):
        if not await asyncio.get_running_loop().sock_recv(control, 16):
            control.close()
            raise RuntimeError("the sandbox did not start; its reason is on stderr")
    control.setblocking(True)


async def _read_most(reader: asyncio.StreamReader, most: int) -> bytes | None:
    """All that comes, None when that is more than `most`. A line whose other end was killed with something unread has ended too."""
    parts: list[bytes] = []
    size = 0
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(2**20):
            size += len(part)
            if size > most:
                return None
            parts.append(part)
    return b"".join(parts)


def _outcome(raw: bytes | None, report: Mapping[str, Any]) -> Outcome:
    usage = Usage(report.get("cpu_seconds", 0.0), report.get("memory_bytes", 0))
    signal = report.get("signal", 0)
    killed = report.get("killed", "")
    if raw is None:
        return Outcome("flood", None, usage, signal)
    if killed in ("time", "disk"):
        return Outcome(killed, None, usage, signal)
    answer: Any = None
    with contextlib.suppress(ValueError, RecursionError):  # half an answer, or one that the code wrote itself
        answer = json.loads(raw)
    if isinstance(answer, dict):
        return Outcome("answered", answer, usage, signal)
    return Outcome("memory" if report.get("memory") else "crashed", None, usage, signal)
