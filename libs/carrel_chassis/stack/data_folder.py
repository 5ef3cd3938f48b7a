"""The folder that holds everything of one system on one machine: who may use it, which format it has, its secrets.

VERSION       {"format": 1, "postgres_major": 18}
lock          held (flock) while a launcher is up; holds its pid
secrets.json  passwords of the database roles and of NATS
stack.json    pid and addresses of the running system
keys/  postgres/  nats/  corpora/  logs/
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import secrets
import time
from pathlib import Path

from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.files import make_private_folder, write_private

FORMAT = 1
_LOCK_TRIES = 5
_LOCK_PAUSE_SECONDS = 0.05


class DataFolder:
    """A data folder that this process holds; made by `DataFolder.open`, given up by `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.keys = make_private_folder(path / "keys")
        self.postgres = make_private_folder(path / "postgres")
        self.nats = make_private_folder(path / "nats")
        self.corpora = make_private_folder(path / "corpora")
        self.logs = make_private_folder(path / "logs")

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Makes the folder or takes the one that is there; StackError when it is in use, foreign or of another format."""
        path = path.expanduser().absolute()
        try:
            return cls._open(path)
        except OSError as error:
            raise StackError(
                f"The data folder {path} cannot be used ({error.strerror}): name a folder that you may write to."
            ) from error

    @classmethod
    def _open(cls, path: Path) -> DataFolder:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(path)
        version = path / "VERSION"
        if not version.exists() and any(entry.name not in ("lock", "VERSION.new") for entry in path.iterdir()):
            raise StackError(
                f"The folder {path} is not empty and not a Carrel data folder: name an empty or a new folder."
            )
        lock = take_lock(path)
        try:
            if version.exists():
                _check_format(path)
            else:
                write_private(version, json.dumps({"format": FORMAT, "postgres_major": None}))
            path.chmod(0o700)
            return cls(path, lock)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Gives the folder up, for the next launcher."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def log(self, name: str) -> Path:
        """The log file of one child process."""
        return self.logs / f"{name}.log"

    def claim_postgres_major(self, major: int) -> None:
        """Holds the folder to one major version: PostgreSQL does not read the files of another."""
        version = json.loads((self.path / "VERSION").read_text())
        held = version.get("postgres_major")
        if held is None:
            write_private(self.path / "VERSION", json.dumps({"format": FORMAT, "postgres_major": major}))
        elif held != major:
            raise StackError(
                f"The data folder {self.path} was made by PostgreSQL {held} and this machine has PostgreSQL {major}: "
                f"install PostgreSQL {held} or name a new folder."
            )

    def passwords(self, names: tuple[str, ...]) -> dict[str, str]:
        """A random password for each name, made once and kept."""
        return kept_passwords(self.path / "secrets.json", names)


def kept_passwords(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    """A random password for each name, from the file; those that it lacks are made and kept there."""
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in names if name not in kept]
    if missing:
        kept.update({name: secrets.token_urlsafe(24) for name in missing})
        write_private(path, json.dumps(kept, indent=1))
    return {name: kept[name] for name in names}


def take_lock(path: Path) -> int:
    """The descriptor of the folder's lock, held until it is closed or this process dies, however it dies."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # A few tries, because `lock_holder` of another process holds the lock for a moment when it looks.
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_SECONDS)
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor
    holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
    os.close(descriptor)
    raise StackError(
        f"The data folder {path} is in use by process {holder}: stop it with `carrel down` or name another folder."
    )


def lock_holder(path: Path) -> int | None:
    """The pid of the launcher that holds the folder now; None when nobody does. A pid that was reused does not fool it."""
    try:
        descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode().strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)


def _check_owner(path: Path) -> None:
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise StackError(
            f"The data folder {path} belongs to {_user_name(owner)} and this process runs as "
            f"{_user_name(os.geteuid())}: run as its owner or name another folder."
        )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _check_format(path: Path) -> None:
    try:
        found = json.loads((path / "VERSION").read_text())["format"]
    except (ValueError, KeyError, TypeError):
        raise StackError(
            f"The file {path / 'VERSION'} is not readable as a Carrel data folder's: name another folder."
        ) from None
    if found != FORMAT:
        raise StackError(
            f"The data folder {path} has format {found} and this Carrel writes format {FORMAT}: "
            f"use the Carrel that made it or name a new folder."
        )
