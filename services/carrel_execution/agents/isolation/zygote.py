"""The process that the processes of agents are forked from: it has their modules loaded, so that one costs milliseconds."""

from __future__ import annotations

import gc
import inspect
import os
import select
import shutil
import signal
import socket
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import carrel
import carrel_chassis
import carrel_execution
from carrel.agent import Agent
from carrel_execution.agents.isolation import bounds
from carrel_execution.agents.isolation.bounds import Confinement
from carrel_execution.agents.isolation.child import work_for
from carrel_execution.agents.isolation.descendants import children, descendants
from carrel_execution.agents.isolation.keeper import Body, keep
from carrel_execution.agents.registry import load_classes


def main(start: dict[str, Any]) -> None:
    """`start`: "control", the descriptor that sockets come over; "modules", those of the agents; "folder", for their
    temporary files; "by_kernel", whether Landlock and seccomp confine them."""
    bounds.adopt_orphans()  # those of a keeper that was killed
    classes = {each.name: each for each in load_classes(start["modules"])[0]}
    for agent_class in classes.values():
        agent_class.freeze()  # as in the service
    confinement = Confinement(_code(classes.values()), start["by_kernel"])
    gc.collect()
    gc.freeze()  # or the first collection in a child would copy every page that it looks at
    with socket.socket(fileno=start["control"]) as control:
        _Zygote(control, Path(start["folder"]), confinement, partial(work_for, classes)).serve()


def _code(classes: Iterable[type[Agent]]) -> list[str]:
    """Where Python, its packages and the agents' modules lie: what is imported late must be readable. Not the roots of `sys.path`,
    which may hold anything."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {str(Path(module.__file__ or "").parent) for module in (carrel, carrel_chassis, carrel_execution)}
    paths |= {str(Path(inspect.getfile(agent_class)).parent) for agent_class in classes}
    return [*sorted(paths), "/usr/lib", "/lib", "/lib64"]


class _Zygote:
    def __init__(self, control: socket.socket, folder: Path, confinement: Confinement, body: Body) -> None:
        self._control = control
        self._folder = folder
        self._confinement = confinement
        self._body = body
        self._keepers: set[int] = set()

    def serve(self) -> None:
        """Forks for each pair of sockets that comes over the control line, until its other end is closed."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it ends with the service
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # not ignored: it wakes the poll
        died, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        ready = select.poll()
        ready.register(died, select.POLLIN)
        ready.register(self._control, select.POLLIN)
        while True:
            for descriptor, _ in ready.poll():
                if descriptor == died:
                    os.read(died, 4096)
                    self._bury()
                elif not self._forked():
                    return

    def _forked(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
        if not message:
            return False
        line, work = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        with line, work, suppress(BlockingIOError):  # no process to be had: the service sees that its lines end
            keeper = os.fork()
            if keeper == 0:
                self._keep(line, work)
            self._keepers.add(keeper)
        return True

    def _keep(self, line: socket.socket, work: socket.socket) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            keep(line, work, self._home_of(os.getpid()), self._confinement, self._body)
            code = 0
        finally:
            os._exit(code)

    def _home_of(self, keeper: int) -> Path:
        return self._folder / str(keeper)

    def _bury(self) -> None:
        """Takes note of the dead. What a killed keeper has left is a child of this process now, and ends here."""
        strays = False
        while (dead := _dead()) is not None:
            self._keepers.discard(dead)
            shutil.rmtree(self._home_of(dead), ignore_errors=True)
            strays = True
        if not strays:
            return
        for stray in set(children(os.getpid())) - self._keepers:
            for pid in (stray, *descendants(stray)):
                os.kill(pid, signal.SIGKILL)


def _dead() -> int | None:
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return pid or None
