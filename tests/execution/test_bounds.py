"""The memory that the process of an agent may have, as the kernel holds it: each in a process of its own, which stays bound."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

_MB = 1024 * 1024
_PROGRAM = """
import json, mmap, resource, sys
from carrel_execution.agents.isolation.bounds import bound_memory, memory_now

had = memory_now()
{first}
bound_memory(64, had)

def outcome(work):
    try:
        work()
    except (MemoryError, OSError) as error:
        return type(error).__name__
    return "done"

def write(megabytes):
    with open(sys.argv[1], "wb") as file:
        for _ in range(megabytes):
            file.write(bytes(2**20))

print(json.dumps({{
    "had": had,
    "data": resource.getrlimit(resource.RLIMIT_DATA),
    "half": outcome(lambda: bytearray(32 * 2**20)),
    "twice": outcome(lambda: bytearray(128 * 2**20)),
    "shared": outcome(lambda: mmap.mmap(-1, 128 * 2**20)),
    "much shared": outcome(lambda: mmap.mmap(-1, 256 * 2**20)),
    "file": outcome(lambda: write(63)),
    "large file": outcome(lambda: write(65)),
}}))
"""


async def bounded(folder: Path, first: str = "") -> dict[str, Any]:
    """What a process comes to that may have 64 MB more than it had."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = _PROGRAM.format(first=first)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(folder / "file")), env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


async def test_a_process_gets_so_much_beyond_what_it_had_and_no_more(tmp_path: Path) -> None:
    found = await bounded(tmp_path)
    assert (
        found["data"] == [found["had"]["VmData"] * 1024 + 64 * _MB] * 2
    )  # the hard one too: it cannot be raised again
    assert (found["half"], found["twice"]) == ("done", "MemoryError")
    # Memory that is shared is no data; what bounds it leaves room for what is only reserved. The keeper counts what is used.
    assert (found["shared"], found["much shared"]) == ("done", "OSError")
    assert (found["file"], found["large file"]) == ("done", "OSError")


async def test_what_a_process_had_already_is_not_counted(tmp_path: Path) -> None:
    found = await bounded(tmp_path, "kept = bytearray(200 * 2**20); had = memory_now()")
    assert (found["half"], found["twice"]) == ("done", "MemoryError")


async def test_a_lower_limit_of_the_machine_stays(tmp_path: Path) -> None:
    lower = 60 * _MB
    found = await bounded(tmp_path, f"resource.setrlimit(resource.RLIMIT_DATA, ({lower}, {lower}))")
    assert found["data"] == [lower, lower]
