"""Landlock: a process gives up all files but those it names, and never gets them back. It knows no policy.

The numbers are those of the kernel's `include/uapi/linux/landlock.h`; the three system calls have the same numbers on all machines.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_READ = _READ_FILE | _READ_DIR
# Make and remove files, folders and symbolic links; no devices, sockets or pipes.
_WRITE = _READ | _WRITE_FILE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | _TRUNCATE
_ON_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many kinds of access each version of the ABI knows; 16 from the fifth on."""
_NET = 0b11
"""To bind and to connect over TCP, from the fourth on."""
_SCOPED = 0b11
"""Abstract Unix sockets and signals, from the sixth on."""


def abi() -> int:
    """The version that the kernel speaks; 0 where there is none."""
    version: int = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    return max(0, version)


def restrict(*, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Leaves this thread and what it starts these files and folders, and nothing to execute. Paths that do not exist are passed over.

    Raises OSError when the kernel refuses: the caller must not go on then.
    """
    version = abi()
    libc = _libc()
    handled = (1 << _FS_BITS.get(version, 16)) - 1
    net = _NET if version >= 4 else 0
    scoped = _SCOPED if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(
        libc.syscall(_CREATE_RULESET, struct.pack("QQQ", handled, net, scoped), ctypes.c_size_t(size), 0)
    )
    try:
        for paths, access in ((readable, _READ), (writable, _WRITE)):
            for path in paths:
                _allow(libc, ruleset, path, access & handled)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = access if os.path.isdir(path) else access & _ON_FILES
        _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, beneath), 0))
    finally:
        os.close(beneath)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)}")
    return answer
