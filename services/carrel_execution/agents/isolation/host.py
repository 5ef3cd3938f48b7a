"""The service's side of the processes of agents: asks for one, and sees to its end. It knows no context and no agent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from carrel_chassis.logs import get_logger
from carrel_chassis.stack.signals import to_the_end
from carrel_execution.agents.isolation.bounds import kernel_confines
from carrel_execution.agents.isolation.folder import own_folder
from carrel_execution.agents.isolation.keeper import HERE

_PROGRAM = """
import json, sys
start = json.loads(sys.argv[1])
sys.path[:] = start["path"]
from carrel_execution.agents.isolation.zygote import main
main(start)
"""
_REPORT_SECONDS = 5.0
"""A keeper that has not ended its agent by then never will: it is dead, and the agent with it."""


@dataclass
class AgentProcess:
    """The process of one agent, and all that it has started."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _report_reader: asyncio.StreamReader
    _report_writer: asyncio.StreamWriter
    _report: dict[str, Any] | None = field(default=None)

    def bound(self, memory_mb: int) -> None:
        """Says how much memory it may have, before it gets its agent."""
        self._report_writer.write(json.dumps({"memory_mb": memory_mb}).encode())

    @property
    def alive(self) -> bool:
        """Whether nothing has ended it yet."""
        return not self._report_reader.at_eof() and not self.reader.at_eof()

    def drop(self) -> None:
        """Lets it go; its keeper ends it."""
        self.writer.transport.abort()
        self._report_writer.transport.abort()

    async def ended(self, seconds: float) -> dict[str, Any]:
        """How it has ended by itself, if it does so within this time; {} when it had to be killed. Nothing is left of it then."""
        if self._report is None:
            try:
                async with asyncio.timeout(seconds):
                    self._report = await self._reported()
            except TimeoutError:
                await self.close()
        return self._report or {}

    async def close(self) -> None:
        """Kills what is left of it, and returns when nothing is."""
        if self._report is None:
            with suppress(OSError, RuntimeError):  # a line that has ended meanwhile
                self._report_writer.write_eof()
            try:
                async with asyncio.timeout(_REPORT_SECONDS):
                    self._report = await self._reported()
            except TimeoutError:
                get_logger().error("agent_process.keeper_is_silent")
        self.drop()

    async def _reported(self) -> dict[str, Any]:
        try:
            raw = await self._report_reader.read(-1)
        except ConnectionError:
            raw = b""
        report: dict[str, Any] = json.loads(raw) if raw else {"signal": signal.SIGKILL.name}
        return report


class NoProcess(Exception):
    """The machine has no room for another process."""


class ProcessHost:
    """Starts processes for agents. Replaces the one that they are forked from when it is gone."""

    def __init__(self, modules: Sequence[str], *, by_kernel: bool | None = None, in_advance: bool = True) -> None:
        """`by_kernel` False does without Landlock and seccomp even where they are; None takes what there is. With `in_advance` one
        process is always ready, from the first agent on."""
        self._modules = list(modules)
        self.by_kernel = kernel_confines() if by_kernel is None else by_kernel
        """Whether Landlock and seccomp confine its processes."""
        self._folder, self._folder_lock = own_folder()
        self._in_advance = in_advance
        self._ready: asyncio.Task[AgentProcess | None] | None = None
        self._starting = asyncio.Lock()
        self._zygote: Process | None = None
        self._control: socket.socket | None = None

    @asynccontextmanager
    async def process(self) -> AsyncIterator[AgentProcess]:
        """A process for one agent; after the block nothing of it is left, even if the block was cancelled.

        Raises NoProcess when the machine gives none.
        """
        process = await self._taken()
        try:
            yield process
        finally:
            await to_the_end(process.close())

    async def _taken(self) -> AgentProcess:
        # What they are forked from may be gone: it is started again, once.
        process = self._taken_ready() or await self._begun() or await self._begun()
        if process is None:
            raise NoProcess("no process could be started")
        return process

    def _taken_ready(self) -> AgentProcess | None:
        """The one that was started in advance, when it is there; the next is started then."""
        if not self._in_advance:
            return None
        ready = self._ready
        if ready is not None and not ready.done():
            return None
        self._ready = asyncio.create_task(self._begun())
        process = None if ready is None or ready.cancelled() or ready.exception() else ready.result()
        if process is not None and not process.alive:
            process.drop()
            return None
        return process

    async def _begun(self) -> AgentProcess | None:
        """A process whose keeper has said that it is there; None when there will be none."""
        async with AsyncExitStack() as undo:
            work, their_work = socket.socketpair()
            line, their_line = socket.socketpair()
            undo.callback(work.close)
            undo.callback(line.close)
            with their_work, their_line:
                try:
                    socket.send_fds(await self._started(), [b"f"], [their_line.fileno(), their_work.fileno()])
                except OSError:
                    await self._end_zygote()
                    return None
            report_reader, report_writer = await asyncio.open_unix_connection(sock=line)
            undo.callback(report_writer.transport.abort)
            reader, writer = await asyncio.open_unix_connection(sock=work)
            undo.callback(writer.transport.abort)
            try:
                await report_reader.readexactly(len(HERE))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            undo.pop_all()
            return AgentProcess(reader, writer, report_reader, report_writer)

    async def start(self) -> None:
        """Starts the process that the others are forked from; without this the first agent waits for it."""
        await self._started()

    async def _started(self) -> socket.socket:
        async with self._starting:  # many agents may find it gone at once: one of them starts it
            if self._control is None or self._zygote is None or self._zygote.returncode is not None:
                await self._end_zygote()
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    start = {
                        "path": [entry for entry in sys.path if entry],
                        "modules": self._modules,
                        "folder": str(self._folder),
                        "by_kernel": self.by_kernel,
                        "control": theirs.fileno(),
                    }
                    self._zygote = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-I", "-c", _PROGRAM, json.dumps(start)),
                        pass_fds=[theirs.fileno()],
                        env={},  # none of the service's secrets
                        stdin=DEVNULL,
                        stdout=DEVNULL,
                        start_new_session=True,
                    )
                self._control = ours
            return self._control

    async def close(self) -> None:
        """Ends the process that the others are forked from. Those that are at work end with their lines."""
        self._in_advance = False
        if self._ready is not None:
            [ready] = await asyncio.gather(self._ready, return_exceptions=True)
            if isinstance(ready, AgentProcess):
                await ready.close()
        await self._end_zygote()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        os.close(self._folder_lock)

    async def _end_zygote(self) -> None:
        control, zygote, self._control, self._zygote = self._control, self._zygote, None, None
        if control is not None:
            control.close()
        if zygote is not None:
            await zygote.wait()
