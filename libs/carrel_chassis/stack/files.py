"""Writing and reading the small private files of a data folder; knows nothing of what is in them."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TAIL_BYTES = 16_384
_SERIOUS = re.compile(r"\b(FATAL|PANIC|ERROR)\b|\[(FTL|ERR)\]|^nats-server: |^carrel: |Error\b|error:")
_STAMP = re.compile(r"^.*?(?=(FATAL|PANIC): |\[FTL\] )")
_EXPECTED = "the database system is starting up"
"""PostgreSQL's answer to those who ask too early: serious in form, and nothing wrong."""
_LARGE_LOG_BYTES = 20 * 1024 * 1024


def make_private_folder(path: Path) -> Path:
    """Makes the folder, or tightens it, so that only its owner may enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replaces the file as a whole, readable by its owner alone; after a power cut it holds the old text or the new."""
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def open_log(path: Path) -> int:
    """A descriptor that appends to the log; a log that has grown large is set aside first, as `<name>.1`."""
    if path.exists() and path.stat().st_size > _LARGE_LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def size(path: Path) -> int:
    """The size in bytes; 0 where there is no file."""
    return path.stat().st_size if path.exists() else 0


def last_meaningful_line(path: Path, since: int = 0) -> str:
    """The last line that reports an error, else the last that says anything, among those written after `since` bytes."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(since, size(path) - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and _EXPECTED not in line]
    serious = [line for line in lines if _SERIOUS.search(line)]
    return _STAMP.sub("", (serious or lines or [""])[-1])[:400]
