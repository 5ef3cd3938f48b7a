"""The commands of one terminal are one session, whatever the terminal is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

_TWICE = """
import subprocess, sys
tell = "import sys; from carrel_cli.terminal import terminal_session; print(terminal_session('tenant', sys.argv[1]))"
for user in ("ada", "ada", "ben"):
    subprocess.run([sys.executable, "-c", tell, user], check=True)
"""

_LEADER_GONE = """
import os, sys
if os.fork():
    os._exit(0)
while os.getppid() == os.getsid(0):
    pass
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def _told(*command: str) -> list[str]:
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, start_new_session=True)
    return ended.stdout.split()


def _is_one_terminal(told: list[str]) -> bool:
    first, second, other_user = told
    return first == second != other_user


def test_a_terminal_is_one_session_of_each_user_and_another_terminal_another() -> None:
    here, there = (_told(sys.executable, "-c", _TWICE) for _ in range(2))
    assert _is_one_terminal(here) and _is_one_terminal(there)
    assert not set(here) & set(there)


def test_a_terminal_whose_leader_is_gone_is_still_one() -> None:
    assert _is_one_terminal(_told(sys.executable, "-c", _LEADER_GONE, _TWICE))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a namespace of processes asks for root")
def test_a_container_without_a_leader_is_one_terminal() -> None:
    unshare = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no namespace of processes")
    here, there = (_told(*unshare, sys.executable, "-c", _TWICE) for _ in range(2))
    assert _is_one_terminal(here) and _is_one_terminal(there)
    assert not set(here) & set(there)
