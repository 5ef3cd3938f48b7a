"""Looking at a running system, and stopping it, from another process; knows only the data folder."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from carrel_chassis.stack.data_folder import lock_holder
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.files import write_private

_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Record:
    """What `stack.json` says: the launcher, where its processes listen, and whether all of them were started."""

    pid: int
    addresses: Mapping[str, str]
    started: bool


def write_record(folder: Path, record: Record) -> None:
    """Says where the system is; written before the first child starts, and again when the last one has."""
    text = {"pid": record.pid, "addresses": dict(record.addresses), "started": record.started}
    write_private(folder / "stack.json", json.dumps(text, indent=1))


def read_record(folder: Path) -> Record | None:
    """The record as it lies there, also one that a killed launcher left behind."""
    try:
        found = json.loads((folder / "stack.json").read_text())
        return Record(pid=int(found["pid"]), addresses=dict(found["addresses"]), started=bool(found["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_record(folder: Path) -> None:
    """Takes the record away once nothing runs."""
    (folder / "stack.json").unlink(missing_ok=True)


def read_stack(data_dir: Path) -> Mapping[str, str] | None:
    """The addresses of the system that runs on this folder; None when none does or it is still starting."""
    data_dir = data_dir.expanduser().absolute()
    record = read_record(data_dir)
    if record is None or not record.started or lock_holder(data_dir) != record.pid:
        return None
    return record.addresses


def stop_stack(data_dir: Path, timeout_seconds: float = 40.0) -> bool:
    """Asks the launcher of this folder to stop and waits until it is gone; False when none was running.

    Blocks. StackError when the launcher is still there after the timeout or belongs to another user.
    """
    data_dir = data_dir.expanduser().absolute()
    pid = lock_holder(data_dir)
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise StackError(f"Process {pid} belongs to another user: run `carrel down` as that user.") from None
    deadline = time.monotonic() + timeout_seconds
    while lock_holder(data_dir) == pid:
        if time.monotonic() > deadline:
            raise StackError(f"Process {pid} did not stop in {timeout_seconds:.0f} s: end it with `kill -9 {pid}`.")
        select.select([], [], [], _PAUSE_SECONDS)
    return True
