"""How much a sandboxed call may use. It knows no level: these hold at each."""

from __future__ import annotations

import contextlib
import math
import resource
from dataclasses import dataclass
from pathlib import Path

_MIB = 1024 * 1024
_OPEN_FILES = 256


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most of each; what is beyond ends the call."""

    seconds: float
    """By the clock; so much CPU too."""
    memory_mb: int
    """Address space beyond what the process has when it is forked."""
    disk_mb: int = 0
    """In its folder; 0 for a call that writes nothing."""
    answer_bytes: int = 4 * _MIB


def apply(bounds: Bounds) -> None:
    """Sets the limits of this process for good. No thread and no process can be started afterwards."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * resource.getpagesize() + bounds.memory_mb * _MIB
    cpu = math.ceil(bounds.seconds) + 1
    for limit, most in (
        (resource.RLIMIT_AS, space),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, bounds.disk_mb * _MIB),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, hardest = resource.getrlimit(limit)
        kept = most if hardest == resource.RLIM_INFINITY else min(most, hardest)
        with contextlib.suppress(ValueError):  # a fork in a container may hold more files than the limit already
            resource.setrlimit(limit, (kept, kept))
