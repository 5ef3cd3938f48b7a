"""What the process of an agent may have and do. Called in that process, before the agent's first line; it knows no agent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from carrel_chassis.sandbox import landlock, seccomp

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522

_MOST_DESCRIPTORS = 256
_MB = 1024 * 1024


_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/usr/share/zoneinfo", "/etc/localtime")


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the processes of agents are left with."""

    readable: Sequence[str]
    """Files and folders: their code."""
    by_kernel: bool
    """Landlock and seccomp take the rest of the files, the network and other processes; without them only what is below holds."""


def kernel_confines() -> bool:
    """Whether this machine has what `by_kernel` needs."""
    return landlock.abi() >= 1 and seccomp.supported()


def adopt_orphans() -> None:
    """From now on, whatever loses its parent below this process becomes its child: nothing gets away by forking twice."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def enter(confinement: Confinement, home: Path, parent: int) -> None:
    """Takes from this process all that an agent has no use for. Raises OSError when that fails: then the agent must not run."""
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise OSError("the keeper is gone")
    os.environ.clear()
    os.environ["TMPDIR"] = os.environ["HOME"] = str(home)
    os.chdir(home)
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    _limit({resource.RLIMIT_NOFILE: _MOST_DESCRIPTORS, resource.RLIMIT_CORE: 0})
    with contextlib.suppress(OSError):  # when the machine has no memory left, this process goes before any service
        Path("/proc/self/oom_score_adj").write_text("1000")
    _drop_capabilities()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if confinement.by_kernel:
        landlock.restrict(readable=(*confinement.readable, *_DEVICES), writable=(str(home),))
        seccomp.restrict()


def memory_now() -> dict[str, int]:
    """What this process has, in KB, by the kernel's names. To be asked before `enter`: afterwards it may not look."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if name[:2] == "Vm"
    }


def bound_memory(memory_mb: int, memory_kb: Mapping[str, int]) -> None:
    """So much beyond what this process had, as `memory_now` said.

    RLIMIT_DATA holds what one process allocates at once; the keeper holds the sum over all.
    """
    _limit(
        {
            resource.RLIMIT_DATA: memory_kb["VmData"] * 1024 + memory_mb * _MB,
            # Also counts what is only reserved, which is much for threads; it is there for shared memory, which DATA leaves out.
            resource.RLIMIT_AS: memory_kb["VmSize"] * 1024 + 3 * memory_mb * _MB,
            resource.RLIMIT_FSIZE: memory_mb * _MB,
        }
    )


def _limit(limits: Mapping[int, int]) -> None:
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _drop_capabilities() -> None:
    """Root without its capabilities cannot look into the service, which has them."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc().capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} failed")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
