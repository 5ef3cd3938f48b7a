"""The folder of a service for its agents' temporary files. One that was killed leaves its own; the next to start clears it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "carrel-agents-"


def own_folder() -> tuple[Path, int]:
    """A new folder, and the descriptor that keeps others from clearing it: the kernel lets go of the lock when its process ends."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _clear_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _clear_if_left(folder: Path) -> None:
    # Not by the number of a process: another container may share the folder and have other numbers.
    with suppress(OSError):  # another's, or gone meanwhile
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)
