"""Running `carrel` as a process: to its end, or as one that is talked to by signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.system import Person, System

COMMAND = (sys.executable, "-m", "carrel_cli")
EXAMPLE = Path(__file__).resolve().parents[2] / "libs" / "carrel_agents" / "examples" / "example_trace.csv"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The JSON lines on standard output."""
        return [json.loads(line) for line in self.out.splitlines()]


async def carrel(*arguments: str, data_dir: Path | None = None, **environment: str) -> Ended:
    """Runs a command to its end. The loop goes on meanwhile: it is the one that supervises the system."""
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=_environment(data_dir, environment),
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


async def as_person(system: System, person: Person, *arguments: str) -> Ended:
    """Runs a command as the person, with their token, at the gateway's address."""
    return await carrel(*arguments, CARREL_TOKEN=person.token, CARREL_ADDRESS=system.addresses["gateway"])


@contextmanager
def running(*arguments: str, data_dir: Path | None = None, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on; ended at the latest when the block is left."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(data_dir, environment),
        start_new_session=True,
        # Whoever runs the tests in the background may ignore the interrupt, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


async def next_line(process: subprocess.Popen[str]) -> str:
    """The next line of its standard output."""
    assert process.stdout is not None
    return await asyncio.to_thread(process.stdout.readline)


async def ended(process: subprocess.Popen[str]) -> Ended:
    """How it ended, when it has."""
    out, err = await asyncio.to_thread(process.communicate, timeout=40)
    assert "Traceback" not in err, err
    return Ended(process.returncode, out, err)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that works in the folder or names it, but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


def _environment(data_dir: Path | None, more: dict[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CARREL_")}
    folder = {} if data_dir is None else {"CARREL_DATA_DIR": str(data_dir)}
    return {**inherited, **folder, **more}
