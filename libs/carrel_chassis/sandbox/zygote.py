"""The program that sandboxed processes are forked from: it has imported what they need, and holds nothing of any user.

It alone starts them, watches their time and their folders, ends them and says how they ended: a call cannot reach it, so a call
cannot escape its end. Requests and answers pass it by: they travel on a line between the caller and the forked process.

A message on the control socket is {"level", "bounds"} as JSON with descriptors: the line, the report line, and the call's files.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carrel_chassis.sandbox.bounds import Bounds
from carrel_chassis.sandbox.confine import confine, keep_descriptors

LENGTH = struct.Struct("!I")
MAX_FILES = 240
"""The kernel passes 253 descriptors in one message."""
_MAX_ORDER_BYTES = 4096
_TICK_SECONDS = 0.05
_MOST_FILES = 2000
_NOBODY = 65534
_NO_MEMORY = 70
"""What a process exits with whose memory was used up."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a call finds where it runs."""

    folder: Path
    """Its own and empty, the working directory; gone with the call."""
    files: tuple[int, ...]
    """Descriptors of the files it was given, in the order of the request."""

    def path(self, number: int) -> str:
        """The path under which the file of this number can be opened, at every level."""
        return f"/proc/self/fd/{self.files[number]}"


Call = Callable[[dict[str, Any], Place], dict[str, Any]]


@dataclass(slots=True)
class _Child:
    pid: int
    pidfd: int
    report: socket.socket
    folder: Path
    bounds: Bounds
    end_time: float
    killed: str = ""


class Zygote:
    """Forks for each order that comes over `control`, until its other end is closed."""

    def __init__(self, control: socket.socket, readable: Sequence[str], folder: Path) -> None:
        self._control = control
        self._readable = readable
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}

    def serve(self) -> None:
        """Until the service is gone; then all that it started is gone too."""
        self._selector.register(self._control, selectors.EVENT_READ, self._take_order)
        try:
            while True:
                timeout = _TICK_SECONDS if self._children else None
                for key, _ in self._selector.select(timeout):
                    if key.data() == "stop":
                        return
                self._look_after()
        finally:
            for child in list(self._children.values()):
                self._kill(child, "stopped")
                os.waitpid(child.pid, 0)

    def _take_order(self) -> str:
        message, descriptors, _, _ = socket.recv_fds(self._control, _MAX_ORDER_BYTES, MAX_FILES + 2)
        if not message:
            return "stop"
        order = json.loads(message)
        line, report, *files = descriptors
        limits = Bounds(**order["bounds"])
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        pid = os.fork()
        if pid == 0:
            _answer_and_exit(line, tuple(files), order["level"], limits, folder, self._readable)
        for descriptor in (line, *files):
            os.close(descriptor)
        child = _Child(
            pid, os.pidfd_open(pid), socket.socket(fileno=report), folder, limits, time.monotonic() + limits.seconds
        )
        self._children[pid] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._ended(child))
        # Nothing is ever sent on it to here: readable means that the caller has left.
        self._selector.register(child.report, selectors.EVENT_READ, lambda: self._kill(child, "left"))
        return ""

    def _look_after(self) -> None:
        now = time.monotonic()
        for child in list(self._children.values()):
            if now >= child.end_time:
                self._kill(child, "time")
            elif child.bounds.disk_mb and _too_full(child.folder, child.bounds.disk_mb * 1024 * 1024):
                self._kill(child, "disk")

    def _kill(self, child: _Child, why: str) -> str:
        if child.pid in self._children and not child.killed:
            child.killed = why
            os.kill(child.pid, signal.SIGKILL)
            self._selector.unregister(child.report)
        return ""

    def _ended(self, child: _Child) -> str:
        _, code, usage = os.wait4(child.pid, 0)
        del self._children[child.pid]
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        if not child.killed:
            self._selector.unregister(child.report)
        report = {
            "killed": child.killed,
            "signal": os.WTERMSIG(code) if os.WIFSIGNALED(code) else 0,
            "memory": os.WIFEXITED(code) and os.WEXITSTATUS(code) == _NO_MEMORY,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_bytes": usage.ru_maxrss * 1024,
        }
        with contextlib.suppress(OSError), child.report:
            child.report.send(json.dumps(report).encode())
        shutil.rmtree(child.folder, ignore_errors=True)
        return ""


def _too_full(folder: Path, most: int) -> bool:
    size = count = 0
    for root, folders, names in os.walk(folder):
        for name in names:
            count += 1
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(root, name)).st_blocks * 512
        count += len(folders)
        if size > most or count > _MOST_FILES:
            return True
    return False


def _answer_and_exit(
    line: int, files: tuple[int, ...], level: int, limits: Bounds, folder: Path, readable: Sequence[str]
) -> None:
    try:
        keep_descriptors([line, *files])
        os.dup2(0, 2)  # the log of the service is not for what runs here
        work = socket.socket(fileno=line)
        request = json.loads(_received(work))
        module, _, name = request["call"].partition(":")
        call: Call = getattr(importlib.import_module(module), name)
        confine(level, limits, str(folder), readable)
        work.sendall(json.dumps(call(request, Place(folder, files))).encode())
    except MemoryError:
        os._exit(_NO_MEMORY)
    except BaseException as error:
        # The place and never the text, which may hold data.
        frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]
        with contextlib.suppress(Exception):
            work.sendall(json.dumps([type(error).__name__, *frames]).encode())
        os._exit(1)
    os._exit(0)


def _received(work: socket.socket) -> bytes:
    with work.makefile("rb") as stream:
        (length,) = LENGTH.unpack(stream.read(LENGTH.size))
        return stream.read(length)


def _give_up_rights() -> None:
    """Root becomes nobody, for good; when the machine has no memory left, this goes before any service."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    os.umask(0o077)


def main() -> None:
    """`... zygote N MODULES READABLE`: serves on the socket inherited as descriptor N; the others are separated by colons."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, modules, readable = sys.argv[-3:]
    for module in modules.split(":"):
        importlib.import_module(module)
    _give_up_rights()
    gc.freeze()  # a collection in a forked process would touch, and so copy, the memory of all that was imported
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (
        tempfile.TemporaryDirectory(prefix="carrel-sandbox-", ignore_cleanup_errors=True) as folder,
        socket.socket(fileno=int(descriptor)) as control,
    ):
        control.send(b"ready")
        Zygote(control, [path for path in readable.split(":") if path], Path(folder)).serve()
    os._exit(0)  # at an ordinary end DuckDB's bindings list on stderr all that they have not freed
