"""Shuts the process in that is about to answer a call. What it could reach before, it cannot reach afterwards."""

from __future__ import annotations

import os
from collections.abc import Sequence

from carrel_chassis.sandbox import bounds, landlock, seccomp
from carrel_chassis.sandbox.bounds import Bounds

_ALWAYS = (
    *("/dev/null", "/dev/zero", "/dev/urandom", "/usr/share/zoneinfo"),
    # DuckDB looks for its limits there, and aborts when a file is there but closed.
    *("/proc/self/cgroup", "/sys/fs/cgroup"),
)


def confine(level: int, limits: Bounds, folder: str, readable: Sequence[str]) -> None:
    """Bounds this process and, from the second level on, takes from it all files but these. Raises OSError: then do not go on.

    Everything that the call needs must be imported or be in `readable`; descriptors that are open stay usable.
    """
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(HOME=folder, TMPDIR=folder, LANG="C.UTF-8")
    bounds.apply(limits)
    if level >= 2:
        landlock.restrict(readable=(*readable, *_ALWAYS), writable=(folder,))
        seccomp.restrict(threads=False)


def keep_descriptors(keep: Sequence[int]) -> None:
    """Closes all but these and the three standard ones."""
    low = 3
    for number in sorted(keep):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
