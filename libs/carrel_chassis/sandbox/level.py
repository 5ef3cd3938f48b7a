"""How far a machine can shut a process in, found by trying. It knows what the levels are, not who needs which."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import IntEnum

from carrel_chassis.sandbox import landlock, seccomp
from carrel_chassis.sandbox.bubblewrap import command

_TRIAL_SECONDS = 10.0


class Level(IntEnum):
    """Each includes the ones before it."""

    PROCESS = 1
    KERNEL = 2
    NAMESPACES = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """The greatest level of this machine, and why it is not a greater one (empty for the greatest)."""

    level: Level
    missing: str = ""

    def __str__(self) -> str:
        return f"level {self.level} ({self.level.name})" + (f"; {self.missing}" if self.missing else "")


def probe(most: Level = Level.NAMESPACES) -> Standing:
    """Tries what there is up to `most`, in a process of its own where a trial would bind this one. Blocks for up to a few 100 ms."""
    standing = _greatest()
    if most < standing.level:
        return Standing(most, f"the operator has set level {int(most)} as the greatest")
    return standing


def _greatest() -> Standing:
    if landlock.abi() < 1:
        return Standing(Level.PROCESS, "this kernel has no Landlock (Linux 5.13 or later, enabled at boot)")
    if not seccomp.supported():
        return Standing(Level.PROCESS, "seccomp filters are not known for this kind of processor, or are forbidden")
    if missing := _bubblewrap_missing():
        return Standing(Level.KERNEL, missing)
    return Standing(Level.NAMESPACES)


def _bubblewrap_missing() -> str:
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap (bwrap) is not installed"
    trial = [*command(program, []), sys.executable, "-I", "-c", "import encodings"]
    try:
        done = subprocess.run(trial, env={}, capture_output=True, timeout=_TRIAL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start: {error}"
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return f"bubblewrap may not work here: {words[-1][:200] if words else f'it ended with {done.returncode}'}"
    return ""
