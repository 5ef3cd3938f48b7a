"""The processes below one: what they use, and their end. It knows no agent."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

_PAUSE_SECONDS = 0.001


def descendants(pid: int) -> list[int]:
    """All processes below this one, zombies included."""
    found = list(children(pid))
    for each in found:  # grows while it is walked
        found.extend(children(each))
    return found


def children(pid: int) -> Iterator[int]:
    """The children of a process, of all its threads."""
    with contextlib.suppress(OSError):  # gone meanwhile
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())


def memory_kb(pid: int) -> int:
    """What the process holds that is its own or shared with others by it, without files; 0 when it is gone."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return 0


def kill_all() -> None:
    """Ends everything below this process, which must adopt orphans, and returns when nothing is left."""
    while True:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not reaped():
            return
        time.sleep(_PAUSE_SECONDS)


def reaped() -> bool:
    """Buries the dead; false when there is no child left."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return False
    return True
