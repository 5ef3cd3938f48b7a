"""One supervised child process: started, started again when it dies, stopped; knows nothing of what it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from carrel_chassis.stack import child
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.files import last_meaningful_line, open_log, size

log = structlog.get_logger(__name__)

OnExit = Callable[[str, int], None]
"""Told the name and the return code (negative: the signal) of each child that died unasked."""

_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 5.0
_SETTLED_SECONDS = 10.0
"""A child that lived this long was well: its next death starts from the short delay again."""
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Command:
    """What to run and how to end it."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    folder: Path
    identity: str = "self"
    """`self`, `namespace:UID` or `UID:GID`: see `child`."""
    stop_signal: signal.Signals = signal.SIGTERM
    """Sent to stop it, and by the kernel when the launcher dies."""
    grace_seconds: float = 8.0


def through_child(command: Command) -> list[str]:
    """The command line that becomes the command after it has taken its identity and tied its life to ours.

    The kernel ties it to the thread that starts it, not to the process: always start children in the loop's own thread.
    """
    prefix = [sys.executable, "-I", "-S", child.__file__, str(os.getpid())]
    return [*prefix, str(int(command.stop_signal)), command.identity, str(command.folder), *command.arguments]


class ChildProcess:
    """Keeps one command running between `start` and `stop`."""

    def __init__(self, command: Command, on_exit: OnExit | None = None) -> None:
        self.command = command
        self.name = command.name
        self.deaths = 0
        """How often it died unasked."""
        self._on_exit = on_exit
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._log_offset = 0

    @property
    def pid(self) -> int | None:
        """The pid while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def last_words(self) -> str:
        """The last meaningful line that it wrote to its log since it was last started."""
        return last_meaningful_line(self.command.log, self._log_offset) or "it wrote nothing to its log"

    async def start(self) -> None:
        """Starts it, and from now on starts it again whenever it dies."""
        await self._spawn()
        self.supervise()

    async def start_once(self) -> None:
        """Starts it unsupervised, so that a first start that fails is seen as such; `supervise` comes after."""
        await self._spawn()

    def supervise(self) -> None:
        """Starts it again whenever it dies, from now on."""
        self._supervisor = asyncio.create_task(self._keep_up(), name=f"supervise-{self.name}")

    async def until(self, ready: Callable[[], Awaitable[bool]], timeout_seconds: float, advice: str) -> None:
        """Waits until it answers; StackError with its last words when it ends first or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not await ready():
            if self.pid is None:
                raise StackError(f"{self.name} did not start ({self.last_words()}): {advice}.")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.name} did not answer in {timeout_seconds:.0f} s ({self.last_words()}): {advice}."
                )
            await asyncio.sleep(_POLL_SECONDS)

    def kill(self, number: signal.Signals) -> None:
        """Sends the signal to the process itself; nothing when it is not running."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stop(self) -> None:
        """Asks it to stop, ends it when the grace is over, and takes along what it left in its process group."""
        self._stopping.set()
        await self._end()
        if self._supervisor is not None:
            await self._supervisor
            self._supervisor = None

    async def _spawn(self) -> None:
        command = self.command
        self._log_offset = size(command.log)
        descriptor = open_log(command.log)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *through_child(command),
                env=dict(command.environment),
                stdin=DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                # A session of its own: the terminal's Ctrl-C reaches the launcher alone, which stops in order.
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        log.debug("child.started", child=self.name, pid=self._process.pid)

    async def _keep_up(self) -> None:
        delay = _FIRST_DELAY_SECONDS
        while True:
            started = time.monotonic()
            await self._wait()
            if self._stopping.is_set():
                return
            self._report()
            if time.monotonic() - started > _SETTLED_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            if await self._asked_to_stop_within(delay):
                return
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
            await self._spawn_again()

    async def _spawn_again(self) -> None:
        try:
            await self._spawn()
        except OSError as error:
            # The machine is out of processes or memory: the loop waits and tries again, as for a child that died.
            log.warning("child.not_started", child=self.name, error=str(error))
        if self._stopping.is_set():
            await self._end()

    async def _wait(self) -> None:
        assert self._process is not None
        await self._process.wait()
        _kill_group(self._process.pid)

    def _report(self) -> None:
        assert self._process is not None and self._process.returncode is not None
        self.deaths += 1
        code = self._process.returncode
        log.warning("child.died", child=self.name, return_code=code, last_words=self.last_words())
        if self._on_exit is not None:
            self._on_exit(self.name, code)

    async def _asked_to_stop_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self.kill(self.command.stop_signal)
        try:
            await asyncio.wait_for(self._wait(), self.command.grace_seconds)
        except TimeoutError:
            log.warning("child.killed", child=self.name, grace_seconds=self.command.grace_seconds)
            self.kill(signal.SIGKILL)
            await self._wait()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
