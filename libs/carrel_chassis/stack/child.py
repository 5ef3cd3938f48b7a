"""Runs between the launcher and the command of a child: takes its identity, ties its life to the launcher's, becomes it.

Called by file name with the standard library alone. It is a program of its own rather than a `preexec_fn`, because code
that runs between fork and exec in a process with threads (gRPC has them) can block for ever on a lock that a thread
held. It costs about 20 ms a start.

    child.py LAUNCHER_PID DEATH_SIGNAL IDENTITY FOLDER COMMAND...

IDENTITY is `self`, `namespace:UID` (the number it has inside) or `UID:GID`. FOLDER is made the working directory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_REFUSED = 126


def _enter_user_namespace(libc: ctypes.CDLL, inside: str) -> None:
    """Root becomes another user in a namespace of its own: its files stay root's, and PostgreSQL sees no root."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "user namespaces are not allowed here")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inside} {uid} 1"),
        ("gid_map", f"{inside} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _become(libc: ctypes.CDLL, identity: str) -> None:
    kind, _, number = identity.partition(":")
    if kind == "namespace":
        _enter_user_namespace(libc, number)
    elif kind != "self":
        uid, gid = int(kind), int(number)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)


def _die_with(libc: ctypes.CDLL, launcher: int, death_signal: int) -> None:
    """Must come after the change of identity, which clears the wish; the launcher may be gone before it is made."""
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != launcher:
        raise OSError("the launcher is gone")


def _plain_signals() -> None:
    """Python ignores SIGPIPE, a shell may have ignored SIGINT, and an ignored signal stays so across exec."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def main(arguments: list[str]) -> None:
    """Becomes the command, or ends with 126 and a line on stderr that says why not."""
    launcher, death_signal, identity, folder, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    doing = f"become {identity}"
    try:
        _become(libc, identity)
        doing = "tie its life to the launcher's"
        _die_with(libc, int(launcher), int(death_signal))
        _plain_signals()
        os.umask(0o077)
        doing = f"enter {folder}"
        os.chdir(folder)
        doing = f"run {command[0]}"
        os.execv(command[0], command)
    except OSError as error:
        # Not sys.exit: nothing of the launcher's may run here, and the reason goes to the log of the child.
        os.write(2, f"carrel: cannot {doing}: {error.strerror or error}\n".encode())
        os._exit(_REFUSED)


if __name__ == "__main__":
    main(sys.argv[1:])
