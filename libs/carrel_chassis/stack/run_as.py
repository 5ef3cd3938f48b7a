"""As whom PostgreSQL runs: it refuses root and users without a name, so these map themselves to another, or become one."""

from __future__ import annotations

import asyncio
import os
import pwd
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from pathlib import Path

from carrel_chassis.stack.errors import StackError
from carrel_chassis.stack.process import Command, through_child

_USERS = ("postgres", "nobody")
"""Whom root becomes where user namespaces are not allowed, the first that this machine has."""


@dataclass(frozen=True)
class RunAs:
    """An identity of a child (see `child`), and who owns its files."""

    identity: str
    uid: int
    gid: int
    name: str

    def own(self, folder: Path) -> None:
        """Gives the folder, which may have been used under another identity, and all in it to this one."""
        if os.geteuid() != 0 or folder.stat().st_uid == self.uid:
            return
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(Path(parent) / name, self.uid, self.gid, follow_symlinks=False)
        # Last, so that a walk that was cut short is seen as not done.
        os.chown(folder, self.uid, self.gid)


@dataclass(frozen=True)
class Answer:
    """How a short command ended."""

    return_code: int
    text: str

    @property
    def last_line(self) -> str:
        """What it said last."""
        return (self.text.strip().splitlines() or ["it said nothing"])[-1]


async def run(command: Command) -> Answer:
    """Runs a command to its end under the command's identity, its life tied to ours like that of all children."""
    process = await asyncio.create_subprocess_exec(
        *through_child(command),
        env=dict(command.environment),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    assert process.returncode is not None
    return Answer(process.returncode, output.decode("utf-8", "replace"))


async def choose_identity(probe: Command, data_dir: Path, *, user_namespaces: bool) -> tuple[RunAs, Answer]:
    """The identity under which the probe (PostgreSQL asked for its version, in its folder) succeeds, and its answer."""
    me = RunAs("self", os.geteuid(), os.getegid(), "this user")
    if user_namespaces and not _has_name(me.uid):
        mapped = RunAs(f"namespace:{_some_name()}", me.uid, me.gid, "this user")
        mapped.own(probe.folder)
        answer = await run(_under(probe, mapped))
        if answer.return_code == 0:
            return mapped, answer
    if me.uid != 0:
        return me, await _must_run(probe, me)
    other = _ordinary_user()
    other.own(probe.folder)
    # The way through, and nothing more: all else in the folder is private to root by itself.
    os.chown(data_dir, 0, other.gid)
    os.chmod(data_dir, 0o710)
    return other, await _must_run(probe, other)


def _has_name(uid: int) -> bool:
    """Whether initdb takes the user: not root, and not a number that the machine has no name for, as in some containers."""
    return uid != 0 and any(user.pw_uid == uid for user in pwd.getpwall())


def _some_name() -> int:
    """A number that has a name: initdb asks for it, and nothing else depends on it."""
    return next((user.pw_uid for user in pwd.getpwall() if user.pw_uid != 0), 65_534)


def _ordinary_user() -> RunAs:
    for name in _USERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return RunAs(f"{found.pw_uid}:{found.pw_gid}", found.pw_uid, found.pw_gid, f"user {name}")
    raise StackError(
        "PostgreSQL refuses root and this machine has no user postgres or nobody: run as an ordinary user."
    )


async def _must_run(probe: Command, who: RunAs) -> Answer:
    answer = await run(_under(probe, who))
    if answer.return_code != 0:
        raise StackError(
            f"PostgreSQL ({probe.arguments[0]}) cannot run as {who.name} in {probe.folder} ({answer.last_line}): "
            f"put the data folder and the Python environment where {who.name} can reach them."
        )
    return answer


def _under(probe: Command, who: RunAs) -> Command:
    return Command(probe.name, probe.arguments, probe.environment, probe.log, probe.folder, who.identity)
