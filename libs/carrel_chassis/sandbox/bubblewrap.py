"""The command line that starts a program in namespaces of its own, with bubblewrap. It knows nothing of what the program does.

The environment must be empty before it: `--clearenv` alone leaves the old one readable in /proc/1/environ
(https://github.com/containers/bubblewrap/issues/725).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_NOBODY = "65534"


def command(program: str, readable: Iterable[Path]) -> list[str]:
    """To be followed by the program and its arguments: no network, no other process, nothing to write but an empty /tmp."""
    seen = [*_SYSTEM, sys.base_prefix, sys.prefix, *map(str, readable)]
    return [
        *(program, "--unshare-all", "--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY),
        *("--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
        *(part for path in dict.fromkeys(seen) for part in ("--ro-bind-try", path, path)),
        *("--chdir", "/tmp"),
        "--",
    ]
