"""The same shape with DBOS: a workflow of three steps that call nothing, in one process. Run by `engine` in an environment that has it.

`python dbos_peer.py URL AT_ONCE SECONDS` prints {"workflows", "seconds", "cpu_seconds", "p50_ms"}.
"""

# mypy: ignore-errors
# DBOS is no dependency of this project; it is installed for this comparison alone.

from __future__ import annotations

import asyncio
import json
import sys
import time

from dbos import DBOS


@DBOS.step()
async def number(value: int) -> int:
    return value


@DBOS.workflow()
async def add() -> int:
    return await number(1) + await number(2) + await number(3)


async def measure(at_once: int, seconds: float) -> dict[str, float]:
    for _ in range(20):
        assert await add() == 6
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def loop() -> None:
        while time.perf_counter() < end:
            begin = time.perf_counter()
            await add()
            taken.append(time.perf_counter() - begin)

    begin, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(loop() for _ in range(at_once)))
    return {
        "workflows": len(taken),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - cpu,
        "p50_ms": sorted(taken)[len(taken) // 2] * 1e3,
    }


def main() -> None:
    url, at_once, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    DBOS(config={"name": "three-steps", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"})
    DBOS.launch()
    try:
        print(json.dumps(asyncio.run(measure(at_once, seconds))))
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    main()
