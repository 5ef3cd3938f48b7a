"""Forks a process for each query from one that has DuckDB loaded already. It knows how to bound a process, not what runs in it.

A process, because DuckDB's memory limit does not hold for what its functions allocate: `SELECT repeat('x', 3000000000)` took
20 GB and could not be interrupted for 80 s. Forked, because a new interpreter with DuckDB costs 170 ms and a fork 3.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("!I")

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(control: socket.socket, answer: Answer) -> None:
    """Forks for each socket that comes over `control`, until its other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        with socket.socket(fileno=descriptors[0]) as work:
            if os.fork() == 0:
                _answer_and_exit(control, work, answer)


def _answer_and_exit(control: socket.socket, work: socket.socket, answer: Answer) -> None:
    try:
        control.close()
        request = json.loads(_received(work))
        _bound(request["memory_mb"], request["seconds"])
        threading.Thread(target=_die_with, args=(work,), daemon=True).start()
        work.sendall(json.dumps(answer(request)).encode())
    except BaseException as error:
        # No answer: the caller sees the end of the stream. The log gets the place and never the text, which may hold data.
        for frame in traceback.extract_tb(error.__traceback__)[-3:]:
            sys.stderr.write(f"query process: {type(error).__name__} at {frame.name}:{frame.lineno}\n")
        os._exit(1)
    os._exit(0)


def _received(work: socket.socket) -> bytes:
    with work.makefile("rb") as stream:
        (length,) = LENGTH.unpack(stream.read(LENGTH.size))
        return stream.read(length)


def _bound(memory_mb: int, seconds: float) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 3 * memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it has nothing to write
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # when the machine has no memory left, this process goes before any service
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.alarm(max(1, int(seconds) + 1))  # for the case that nobody is left to end it


def _die_with(work: socket.socket) -> None:
    """Ends the process when its caller closes the line, whatever the query does."""
    with contextlib.suppress(OSError):
        work.recv(1)
    os._exit(1)


def main() -> None:
    """`... zygote N`: serves on the socket that was inherited as descriptor N."""
    from carrel_tools.sandbox.reading import answer  # the costly import, done once

    with socket.socket(fileno=int(sys.argv[-1])) as control:
        serve(control, answer)
