"""The pool of sandboxed processes: what a call is given, how it can end, and that its end is its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from carrel_chassis.sandbox import seccomp
from carrel_chassis.sandbox.bounds import Bounds
from carrel_chassis.sandbox.level import Level, probe
from carrel_chassis.sandbox.pool import Pool
from tests.support.expect import eventually

ROOT = Path(__file__).resolve().parents[3]
CALLS = "tests.support.sandboxed"
BOUNDS = Bounds(seconds=10, memory_mb=128, disk_mb=4)
NO_JSON = """
import os
for number in range(3, 100):
    try:
        os.write(number, b"no json")
    except OSError:
        pass
os._exit(0)
"""


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool([CALLS], min(probe().level, Level.KERNEL), [ROOT])
    try:
        yield pool
    finally:
        await pool.close()


def memory_file(text: str) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, text.encode())
    return descriptor


async def test_a_call_has_its_files_and_an_empty_folder_and_no_more(pool: Pool):
    files = [memory_file("one"), memory_file("two")]
    outcome = await pool.run(f"{CALLS}:read", {}, BOUNDS, files)
    for descriptor in files:
        os.close(descriptor)
    assert outcome.end == "answered" and outcome.answer is not None
    assert outcome.answer["texts"] == ["one", "two"] and outcome.answer["folder"] == []
    assert set(outcome.answer["environment"]) == {"HOME", "TMPDIR", "LANG"}


async def test_nothing_is_carried_from_one_call_to_the_next(pool: Pool):
    code = {"code": "import sys; sys.planted = 1; open('left', 'w').write('x'); got = 1"}
    assert (await pool.run(f"{CALLS}:attempt", code, BOUNDS)).end == "answered"
    looking = {"code": "import sys, os; got = hasattr(sys, 'planted') or os.listdir('.') or os.listdir('..')"}
    outcome = await pool.run(f"{CALLS}:attempt", looking, BOUNDS)
    assert "left" not in str(outcome.answer) and outcome.answer not in ({"got": "True"},)


async def test_a_crash_is_one_calls_end(pool: Pool):
    crash = {"code": "import ctypes; ctypes.string_at(0)"}
    crashed, fine = await asyncio.gather(
        pool.run(f"{CALLS}:attempt", crash, BOUNDS), pool.run(f"{CALLS}:read", {}, BOUNDS)
    )
    assert (crashed.end, crashed.signal, crashed.answer) == ("crashed", 11, None)
    assert fine.end == "answered"


async def test_an_answer_that_never_ends_is_cut_off(pool: Pool):
    few = Bounds(seconds=10, memory_mb=128, answer_bytes=1000)
    outcome = await pool.run(f"{CALLS}:flood", {"bytes": 20 * 2**20}, few)
    assert outcome.end == "flood" and outcome.answer is None and outcome.usage.memory_bytes


async def test_an_answer_that_is_none_is_a_crash(pool: Pool):
    for code in ("import os; os._exit(0)", "raise SystemExit(3)", NO_JSON):
        outcome = await pool.run(f"{CALLS}:attempt", {"code": code}, BOUNDS)
        assert outcome.end == "crashed", (code, outcome)


async def test_a_call_whose_caller_leaves_is_ended(pool: Pool):
    await pool.start()
    calls = [asyncio.create_task(pool.run(f"{CALLS}:sleep", {}, Bounds(600, 64))) for _ in range(3)]
    await eventually(lambda: _has_children(pool, 3))
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: _has_children(pool, 0))


async def test_a_killed_zygote_is_replaced(pool: Pool):
    await pool.start()
    process = pool._process
    assert process is not None
    process.kill()
    await process.wait()
    assert (await pool.run(f"{CALLS}:read", {}, BOUNDS)).end == "answered"


async def test_closing_the_pool_ends_what_runs(pool: Pool):
    call = asyncio.create_task(pool.run(f"{CALLS}:sleep", {}, Bounds(600, 64)))
    await eventually(lambda: _has_children(pool, 1))
    await pool.close()
    assert (await call).end == "crashed"


async def _has_children(pool: Pool, count: int) -> bool:
    if pool._process is None:
        return False
    return _children(pool._process.pid) == count


def _children(pid: int) -> int:
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_jump_of_the_filter_leaves_it(machine: str):
    code = seccomp.program(machine, 4711, threads=False)
    assert len(code) < 4096
    for place, (_, when_true, when_false, _) in enumerate(code):
        assert place + 1 + max(when_true, when_false) < len(code) or code[place][0] == 0x06
