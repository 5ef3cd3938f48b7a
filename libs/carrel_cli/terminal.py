"""Which terminal this is: the commands that are typed in one are one session of their user. It knows no credential."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from carrel_chassis.ids import new_id

_START_TIME = 19
"""Its place after the name in brackets, proc(5): a pid comes again, together with its start it does not until the next boot."""


def terminal_session(tenant: str, user: str) -> str:
    """The session of this user in this terminal; a new one where none can be told, as where /proc is hidden.

    The terminal is the leader of the session of processes. In a container the leader may be outside, where it cannot be
    seen: then the container is the terminal. A leader that has gone leaves its number, which the kernel gives to no one
    while its session has processes.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        container = os.readlink("/proc/self/ns/pid")
        leader = os.getsid(0) or 1
        started = _started(leader)
    except OSError:
        return new_id("session")
    told = "\n".join((boot, container, str(leader), started, tenant, user))
    return f"session-{hashlib.sha256(told.encode()).hexdigest()[:32]}"


def _started(leader: int) -> str:
    try:
        return Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[_START_TIME]
    except FileNotFoundError:
        return "gone"
