"""Attempts to get out of a sandboxed process, at each level that this machine has: what a level promises to refuse is refused.

What a level does not promise is in its table in `carrel_chassis.sandbox`, and no test says otherwise: at the first level a process may
open what its user may, and so no tool that runs code of others is content with it.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from carrel_chassis.sandbox.bounds import Bounds
from carrel_chassis.sandbox.level import Level, probe
from carrel_chassis.sandbox.pool import Outcome, Pool

ROOT = Path(__file__).resolve().parents[3]
BOUNDS = Bounds(seconds=5, memory_mb=128, disk_mb=4)
HERE = probe()
SECRET = f"secret-{secrets.token_hex(8)}"


@pytest_asyncio.fixture(params=list(Level), ids=lambda level: level.name)
async def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pool]:
    """At each level; started from a process whose environment holds a secret."""
    if request.param > HERE.level:
        pytest.skip(f"this machine has {HERE}")
    monkeypatch.setenv("CARREL_SECRET", SECRET)
    pool = Pool(["tests.support.sandboxed"], request.param, [ROOT])
    try:
        yield pool
    finally:
        await pool.close()


async def attempt(pool: Pool, code: str, bounds: Bounds = BOUNDS, **names: object) -> Outcome:
    return await pool.run("tests.support.sandboxed:attempt", {"code": code, "names": names}, bounds)


async def refusal(pool: Pool, code: str, **names: object) -> str:
    """What the code was told."""
    outcome = await attempt(pool, code, **names)
    assert outcome.answer is not None and "refused" in outcome.answer, outcome
    return str(outcome.answer["refused"])


def from_level(pool: Pool, level: Level) -> None:
    if pool.level < level:
        pytest.skip(f"promised from {level.name} on")


async def test_the_environment_of_the_service_is_not_there(pool: Pool):
    outcome = await attempt(pool, "import os; got = dict(os.environ)")
    assert outcome.answer is not None and SECRET not in outcome.answer["got"]
    looking = "import os; got = open(f'/proc/{os.getppid()}/environ').read() + open('/proc/self/environ').read()"
    outcome = await attempt(pool, looking)
    assert SECRET not in str(outcome.answer)
    if os.geteuid() != 0:
        from_level(pool, Level.KERNEL)  # before it, a process may open what its user may
    reason = await refusal(pool, "got = open(f'/proc/{pid}/environ').read()", pid=os.getpid())
    assert reason.startswith(("PermissionError", "FileNotFoundError"))


async def test_descriptors_of_the_service_are_not_there(pool: Pool):
    outcome = await attempt(
        pool,
        "import os, stat; got = [n for n in range(3, 200) if os.path.exists(f'/proc/self/fd/{n}')]",
    )
    # The line on which it answers, and nothing else.
    assert outcome.answer is not None and len(eval(outcome.answer["got"])) <= 1


async def test_more_memory_than_granted_is_refused(pool: Pool):
    assert await refusal(pool, "got = len(bytearray(400 * 2**20))") == "MemoryError: "
    outcome = await attempt(pool, "raise SystemExit(bytearray(400 * 2**20))", BOUNDS)
    assert outcome.end in ("answered", "memory")


async def test_a_fork_bomb_goes_no_further_than_its_first_fork(pool: Pool):
    # As real root there is no limit of processes at the first level, and the zygote is nobody then: refused by its number.
    reason = await refusal(pool, "import os\nwhile True: os.fork()")
    assert reason.startswith(("BlockingIOError", "PermissionError"))


async def test_more_disk_than_granted_ends_it(pool: Pool):
    assert (await refusal(pool, "open('one', 'wb').write(b'x' * (5 * 2**20))")).startswith("OSError: [Errno 27]")
    many = "n = 0\nwhile True:\n    open(f'f{n}', 'wb').write(b'x' * 2**20)\n    n += 1"
    assert (await attempt(pool, many)).end == "disk"
    empty = "n = 0\nwhile True:\n    open(f'f{n}', 'wb').close()\n    n += 1"
    assert (await attempt(pool, empty)).end == "disk"


async def test_code_that_never_ends_is_ended_and_what_it_used_is_told(pool: Pool):
    outcome = await attempt(pool, "while True: pass", Bounds(seconds=0.5, memory_mb=64))
    assert outcome.end == "time" and outcome.signal == signal.SIGKILL
    assert 0 < outcome.usage.cpu_seconds < 5 and outcome.usage.memory_bytes > 2**20


async def test_files_of_others_are_out_of_reach(pool: Pool, tmp_path: Path):
    from_level(pool, Level.KERNEL)
    secret = tmp_path / "corpus.csv"
    secret.write_text(SECRET)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)  # the owner's own permissions would let it read
    for code in (
        "got = open(path).read()",
        "import os; got = os.listdir(os.path.dirname(path))",
        "import os; os.symlink(path, 'link'); got = open('link').read()",
        "import os; os.link(path, 'link'); got = open('link').read()",
        "got = open('/etc/passwd').read()",
        "got = open('/proc/self/maps').read()",
        "got = open('/proc/1/cmdline').read()",
        "open('/tmp/carrel-escaped', 'w')",
        "import os; os.rename(path, 'here')",
        "import os; os.truncate(path, 0)",
        "import os; os.chmod(path, 0o777)",
        "import os; os.utime(path)",
        "import os; os.chroot('.')",
    ):
        reason = await refusal(pool, code, path=str(secret))
        assert reason.startswith(("PermissionError", "FileNotFoundError", "OSError: [Errno 18]")), (code, reason)
    assert secret.read_text() == SECRET


async def test_the_network_is_out_of_reach(pool: Pool):
    from_level(pool, Level.KERNEL)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for code in (
            "import socket; socket.create_connection(('127.0.0.1', port))",
            "import socket; socket.socket(socket.AF_UNIX)",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', port))",
            "import socket; socket.getaddrinfo('example.com', 443)",
        ):
            assert "not permitted" in (reason := await refusal(pool, code, port=port)) or "gaierror" in reason


async def test_other_processes_are_out_of_reach(pool: Pool):
    from_level(pool, Level.KERNEL)
    for code in (
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
        "import os, signal; os.kill(pid, 0)",
        "import os, signal; os.kill(-1, 0)",
        "import os, signal; os.killpg(0, 0)",
        "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (1, 1))",
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import os; os.pidfd_open(os.getppid())",
        "import os; os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['true'])",
    ):
        reason = await refusal(pool, code, pid=os.getpid())
        assert reason.startswith(("PermissionError", "ProcessLookupError")), (code, reason)
    # The process that the others are forked from is alive.
    assert (await attempt(pool, "got = 1")).end == "answered"


async def test_no_thread_is_started(pool: Pool):
    reason = await refusal(pool, "import threading; threading.Thread(target=print).start()")
    assert reason == "RuntimeError: can't start new thread"


async def test_limits_cannot_be_raised_again(pool: Pool):
    reason = await refusal(
        pool, "import resource; resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)"
    )
    assert reason.startswith(("ValueError", "PermissionError"))


async def test_memory_that_no_limit_counts_is_refused(pool: Pool):
    from_level(pool, Level.KERNEL)
    assert (await refusal(pool, "import os; os.memfd_create('x')")).startswith("PermissionError")


async def test_names_of_files_and_processes_are_out_of_sight(pool: Pool):
    from_level(pool, Level.NAMESPACES)
    assert (await refusal(pool, "import os; os.stat(f'/proc/{pid}')", pid=os.getpid())).startswith("FileNotFoundError")
    assert (await refusal(pool, "import os; os.stat('/etc/passwd')")).startswith("FileNotFoundError")
