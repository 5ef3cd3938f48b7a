"""The system of the demo: a stack in a folder of its own on free ports, and proof that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from carrel_chassis.stack import Stack, StackSettings, ports

_COUNTER = "carrel_cross_user_blocked_total"
_PAGE_SECONDS = 5.0


class Stage:
    """A stack that is started by `Stack.start` and taken down by `clear`."""

    def __init__(self, environment: Callable[[Path], Mapping[str, str]] = lambda folder: {}) -> None:
        """`environment` is what the services are given, for the folder of the stage."""
        self.folder = Path(tempfile.mkdtemp(prefix="carrel-demo-"))
        self.stack = Stack(StackSettings(self.folder, service_environment=environment(self.folder)))
        self._pids: set[int] = set()
        self._ports: list[int] = []

    def remember(self) -> None:
        """Notes what runs and where it listens, so that `clear` can look for it."""
        self._pids.update(self.stack.pids().values())
        self._ports = [int(address.rsplit(":", 1)[1]) for address in self.stack.addresses.values()]

    async def clear(self, *, keep: bool) -> list[str]:
        """Stops everything, removes the folder unless it is to be kept; what is left all the same, in words."""
        self._pids.update(self.stack.pids().values())
        await self.stack.stop()
        if not keep:
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        left = [f"process {pid}" for pid in sorted(self._pids) if _is_alive(pid)]
        left += [f"port {port}" for port in self._ports if not ports.is_free(port)]
        return left if keep or not self.folder.exists() else [*left, f"folder {self.folder}"]

    @property
    def counts(self) -> str:
        """How many processes and ports were looked at."""
        return f"{len(self._pids)} processes and {len(self._ports)} ports"

    async def blocked(self) -> float | str | None:
        """The tripwire's count from the page of event-stream; a sentence when it is not on it, None when there is no page."""
        address = self.stack.addresses.get("metrics.events")
        if address is None:
            return None
        try:
            page = await asyncio.to_thread(_read_page, f"http://{address}/metrics")
        except OSError:
            return None
        samples = list(_samples(page.splitlines()))
        return sum(samples) if samples else f"its metrics page does not show {_COUNTER}"


def _read_page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_PAGE_SECONDS) as answer:
        return str(answer.read().decode())


def _samples(lines: Iterable[str]) -> Iterable[float]:
    for line in lines:
        if line.startswith((f"{_COUNTER}{{", f"{_COUNTER} ")):
            yield float(line.rsplit(" ", 1)[1])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
