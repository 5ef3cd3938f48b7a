"""Loopback ports: which are free, and who has the others."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from carrel_chassis.stack.errors import StackError

HOST = "127.0.0.1"
# Below the range from which Linux (32768) and others (49152) take the near ends of outgoing connections: such a port
# could be taken in the moment in which a child that died is started again.
_LOWEST, _HIGHEST = 20_000, 32_000
_LISTEN = "0A"
_PAUSE_SECONDS = 0.1
_claims: dict[int, int] = {}
"""The ports that this process has chosen, with the descriptor that says so."""


def is_free(port: int) -> bool:
    """Whether a server could listen there now; connections that linger after their server do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Distinct ports that are free now, and that are given to nobody else before `release` or the end of this process."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(_LOWEST, _HIGHEST), _HIGHEST - _LOWEST):
        if is_free(port) and _claim(port):
            found.append(port)
        if len(found) == count:
            return found
    release(found)
    raise StackError("No free ports are left between 20000 and 32000: stop something that listens there.")


def release(ports: Iterable[int]) -> None:
    """Lets others choose these ports again."""
    for port in ports:
        claim = _claims.pop(port, None)
        if claim is not None:
            os.close(claim)


def _claim(port: int) -> bool:
    """Whether nobody else has chosen the port: two launchers that start in the same second would choose before either listens.

    The claim is a name in Linux's abstract namespace of sockets, which is the ports' own and forgets with the process; elsewhere
    there is none.
    """
    if sys.platform != "linux":
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        try:
            claim.bind(f"\0carrel-port-{port}")
        except OSError:
            return False
        _claims[port] = claim.detach()
    return True


def check_free(ports: Iterable[tuple[str, int]]) -> None:
    """StackError that names the first port that is taken, what it was for, and who has it where that can be seen."""
    for purpose, port in ports:
        if not is_free(port):
            pid = listener(port)
            holder = f"in use by process {pid}" if pid is not None else "in use"
            raise StackError(f"Port {port} (for {purpose}) is {holder}: free it or choose another base port.")


async def until_free(ports: Collection[int], timeout_seconds: float) -> None:
    """Waits while processes of a launcher that was killed are still going; gives up silently at the timeout."""
    deadline = time.monotonic() + timeout_seconds
    # A port of another process tells nobody when it becomes free.
    while time.monotonic() < deadline and not all(is_free(port) for port in ports):  # noqa: ASYNC110
        await asyncio.sleep(_PAUSE_SECONDS)


def listener(port: int) -> int | None:
    """The pid that listens on the port, from /proc; None where /proc is missing or the process is another user's."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, inodes):
            return int(process.name)
    return None


def _listening_inodes(port: int) -> Iterable[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if not table.exists():
            continue
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                yield fields[9]


def _holds(process: Path, links: set[str]) -> bool:
    try:
        return any(str(descriptor.readlink()) in links for descriptor in (process / "fd").iterdir())
    except OSError:
        return False
