"""What the launcher's tests share: waiting for a thing to become so, and a launcher in a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("launcher_program.py")


async def eventually(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns as soon as it is so; fails the test when it never is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never became so"
        await asyncio.sleep(0.02)


def mode(path: Path) -> int:
    """Who may do what with the file."""
    return path.stat().st_mode & 0o777


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process, backends included, that works in the folder or names it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


@contextmanager
def launcher(
    folder: Path,
    *prefix: str,
    python: str = sys.executable,
    environment: dict[str, str] | None = None,
    port_base: int = 0,
    services: tuple[str, ...] = (),
) -> Iterator[subprocess.Popen[str]]:
    """A launcher in a process of its own, with fakes for the services; entered when it says that all is up."""
    command = [*prefix, python, str(PROGRAM), str(folder), str(port_base), *services]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment, cwd="/"
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
