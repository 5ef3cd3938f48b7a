"""Keeps the process of one agent: starts it, watches what it uses, ends it and all that it has started, and says how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from carrel_execution.agents.isolation import bounds
from carrel_execution.agents.isolation.bounds import Confinement
from carrel_execution.agents.isolation.descendants import descendants, kill_all, memory_kb

MOST_PROCESSES = 64
_SAMPLE_SECONDS = 0.1
_MOST_ASKED = 1024

Report = dict[str, Any]
"""How a process ended: {"memory_mb"}, {"processes"}, {"signal"} or {"code"}; empty when it was told to."""

HERE = b"k"
"""What a keeper says first: from then on its agent is there, and its report will come."""

Body = Callable[[socket.socket, Callable[[], None]], None]
"""What the process of the agent does: its line to the service, and what it calls to confine itself before anything else."""


def keep(line: socket.socket, work: socket.socket, home: Path, confinement: Confinement, body: Body) -> None:
    """Runs `body` in a process of its own until it ends, or until the service closes `line`; then writes the report to it.

    The service says on the line how much memory the agent may have, when it has one for this process.
    """
    bounds.adopt_orphans()
    home.mkdir(mode=0o700)
    keeper, own_kb = os.getpid(), memory_kb(os.getpid())
    agent = os.fork()
    if agent == 0:
        line.detach()
        confine = partial(bounds.enter, confinement, home, keeper)
        _be_the_agent(work, confine, body)
    work.close()
    line.sendall(HERE)
    asked = line.recv(_MOST_ASKED)
    report = _watched(line, agent, json.loads(asked)["memory_mb"], own_kb) if asked else {}
    kill_all()
    shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(OSError):  # the service may be gone
        line.sendall(json.dumps(report).encode())


def _be_the_agent(work: socket.socket, confine: Callable[[], None], body: Body) -> None:
    code = 1
    try:
        body(_alone(work), confine)
        code = 0
    finally:
        os._exit(code)


def _alone(work: socket.socket) -> socket.socket:
    """Closes all descriptors but the line to the service, and puts it where the first free one is."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.dup2(work.detach(), 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return socket.socket(fileno=3)


def _watched(line: socket.socket, agent: int, memory_mb: int, own_kb: int) -> Report:
    """Returns when the agent has ended, must end, or is to end."""
    ends = select.poll()
    process = os.pidfd_open(agent)
    ends.register(process, select.POLLIN)
    ends.register(line, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in ends.poll(_SAMPLE_SECONDS * 1e3)]
        if process in ready:
            return _ended(agent)
        if ready:
            return {}
        below = descendants(os.getpid())
        if len(below) > MOST_PROCESSES:
            return {"processes": MOST_PROCESSES}
        # What all have in common with the keeper by their birth is nobody's use.
        if sum(max(0, memory_kb(pid) - own_kb) for pid in below) > memory_mb * 1024:
            return {"memory_mb": memory_mb}


def _ended(agent: int) -> Report:
    _, status = os.waitpid(agent, 0)
    if os.WIFSIGNALED(status):
        return {"signal": signal.Signals(os.WTERMSIG(status)).name}
    return {"code": os.waitstatus_to_exitcode(status)}
