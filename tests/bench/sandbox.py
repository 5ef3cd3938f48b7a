"""What the sandbox and the encryption of corpora cost. No service and no database: the pool, the interpreter and the store themselves."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from carrel_chassis.sandbox.bounds import Bounds
from carrel_chassis.sandbox.level import Level, probe
from carrel_chassis.sandbox.pool import Pool
from carrel_tools.corpus_store import memory_file, open_store
from carrel_tools.keyring import KeyRing
from carrel_tools.sandbox.sandbox import MODULES
from tests.bench.report import Figure, percentile

_SERVICES = Path(__file__).resolve().parents[2] / "services"
_CALLS = 200
_MIB = 1024 * 1024
_CORPUS_BYTES = 64 * _MIB
_CODE = {"code": "sum(range(1000))", "arguments": {}, "names": [], "keep": []}


async def measure() -> list[Figure]:
    """The figures of each level that this machine has, and of the store."""
    standing = probe()
    figures = [figure for level in Level if level <= standing.level for figure in await _level(level)]
    return [*figures, *await _store()]


async def _level(level: Level) -> list[Figure]:
    pool = Pool(MODULES, level, [_SERVICES])
    began = time.perf_counter()
    try:
        await pool.start()
        started = time.perf_counter() - began

        async def call() -> None:
            outcome = await pool.run("carrel_tools.sandbox.interpreter:run", _CODE, Bounds(10, 128, 16))
            assert outcome.answer is not None and outcome.answer["value"] == 499_500

        times = await _times(call)
    finally:
        await pool.close()
    name = level.name.lower()
    conditions = f"one at a time, level {int(level)} ({name})"
    return [
        Figure(f"sandbox start, {name}", started * 1e3, "ms", conditions="once for a process of tool-dispatch"),
        Figure(f"sandboxed Python call p50, {name}", percentile(times, 0.5) * 1e3, "ms", "< 20", conditions=conditions),
        Figure(f"sandboxed Python call p99, {name}", percentile(times, 0.99) * 1e3, "ms", conditions=conditions),
    ]


async def _times(call: Callable[[], Awaitable[None]]) -> list[float]:
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return times


async def _store() -> list[Figure]:
    ring = KeyRing({"1": os.urandom(32)})
    owner = ("acme", "ada")
    key = ring.open(owner, ring.new_key(owner))
    content = os.urandom(_CORPUS_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder), "")
        began = time.perf_counter()
        for number, begin in enumerate(range(0, _CORPUS_BYTES, 4 * _MIB)):
            await store.put(key, "corpus", number, content[begin : begin + 4 * _MIB])
        stored = time.perf_counter() - began
        with memory_file() as descriptor:
            began = time.perf_counter()
            await store.pour(key, "corpus", _CORPUS_BYTES, descriptor)
            opened = time.perf_counter() - began
    conditions = "64 MiB, AES-GCM in parts of 4 MiB, a local disk"
    return [
        Figure("corpus sealed and stored durably", _CORPUS_BYTES / _MIB / stored, "MiB/s", conditions=conditions),
        Figure("corpus opened into memory", _CORPUS_BYTES / _MIB / opened, "MiB/s", conditions=conditions),
    ]
