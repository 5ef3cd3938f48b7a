"""A run of an agent with one tool, from StartRun at the gateway to `agent_completed` at the subscriber: the whole system, durable.

And what it costs: CPU by process, PostgreSQL's by the role that it worked for, commits, and statements by role, which are round trips.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg
import psutil

from carrel_chassis.stack import Stack, StackSettings
from tests.bench.report import Figure, percentile
from tests.bench.runner import Runner, loaded, runners
from tests.support.system import System

IDLE_RUNS = 300
AT_ONCE = 32
LOAD_SECONDS = 10.0
COUNTED_SECONDS = 3.0
"""For how long statements are logged, and counted."""
_STATISTICS_SECONDS = 1.5
"""After so long of silence PostgreSQL's processes have told what they counted."""
_STATEMENT = re.compile(rb" (carrel_\w+) LOG:  (?:statement|execute)")


def cpu_seconds(pids: dict[str, int]) -> dict[str, float]:
    """CPU of each process so far, its children included (PostgreSQL has one for each connection)."""
    result = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        result[name] = sum(sum(member.cpu_times()[:2]) for member in family)
    return result


class Database:
    """PostgreSQL's own account of what it does, and for whom."""

    def __init__(self, admin: asyncpg.Connection, log: Path) -> None:
        self._admin = admin
        self._log = log

    async def cpu_by_role(self) -> dict[str, float]:
        """CPU seconds of the processes that serve the connections of each role."""
        rows = await self._admin.fetch("SELECT pid, usename FROM pg_stat_activity WHERE usename LIKE 'carrel_%'")
        spent: Counter[str] = Counter()
        for row in rows:
            if psutil.pid_exists(row["pid"]):
                spent[row["usename"]] += sum(psutil.Process(row["pid"]).cpu_times()[:2])  # type: ignore[assignment]
        return dict(spent)

    async def commits(self) -> int:
        """Transactions so far, once all processes have told of theirs."""
        await asyncio.sleep(_STATISTICS_SECONDS)
        count: int = await self._admin.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        return count

    async def log_statements(self, what: str) -> None:
        """ "all" or "none", from the next statement on."""
        await self._admin.execute(f"ALTER SYSTEM SET log_statement = '{what}'")
        await self._admin.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(0.3)

    def statements_by_role(self) -> Counter[str]:
        """How many statements the log holds, BEGIN and COMMIT included."""
        return Counter(found.decode() for found in _STATEMENT.findall(self._log.read_bytes()))


async def _costs(stack: Stack, users: list[Runner], database: Database) -> list[Figure]:
    pids = dict(stack.pids())
    commits, roles = await database.commits(), await database.cpu_by_role()
    before, own = cpu_seconds(pids), time.process_time()
    runs, seconds, taken = await loaded(users, LOAD_SECONDS)
    after, own = cpu_seconds(pids), time.process_time() - own
    roles_after = await database.cpu_by_role()
    commits = await database.commits() - commits
    conditions = (
        f"{AT_ONCE} users, one run at a time each; engines, services and load on {os.cpu_count()} cores, fsync on"
    )
    spent = {name: (after[name] - before[name]) / runs * 1e3 for name in after} | {"load generator": own / runs * 1e3}
    by_role = {role: (value - roles.get(role, 0.0)) / runs * 1e3 for role, value in sorted(roles_after.items())}
    return [
        Figure("run/rate", runs / seconds, "runs/s", "> 150", conditions=conditions),
        Figure("run/p50 loaded", percentile(taken, 0.5) * 1e3, "ms", conditions=conditions),
        Figure("run/cpu all", sum(spent.values()), "ms/run", conditions=conditions),
        *(Figure(f"run/cpu {name}", value, "ms/run", conditions="its CPU time") for name, value in spent.items()),
        *(
            Figure(f"run/cpu postgres for {role}", value, "ms/run", conditions="CPU time of its connections")
            for role, value in by_role.items()
        ),
        Figure("run/commits", commits / runs, "per run", conditions="xact_commit, polls and renewals included"),
    ]


async def _statements(users: list[Runner], database: Database) -> list[Figure]:
    await database.log_statements("all")
    before = database.statements_by_role()
    runs, _, _ = await loaded(users, COUNTED_SECONDS)
    after = database.statements_by_role()
    await database.log_statements("none")
    counts = {role: (count - before[role]) / runs for role, count in sorted(after.items())}
    conditions = "BEGIN, COMMIT, polls and renewals included"
    return [
        Figure("run/round trips to postgres", sum(counts.values()), "per run", conditions=conditions),
        *(
            Figure(f"run/round trips of {role}", count, "per run", conditions=conditions)
            for role, count in counts.items()
        ),
    ]


async def _measure(system: System) -> list[Figure]:
    stack = system.stack
    admin = await asyncpg.connect(stack.admin_url_of("carrel"))
    database = Database(admin, system.data_dir / "logs" / "postgres.log")
    try:
        async with runners(system, AT_ONCE) as users:
            idle = [await users[0].run() for _ in range(IDLE_RUNS)]
            alone = "one user, one run at a time"
            return [
                Figure("run/p50 idle", percentile(idle, 0.5) * 1e3, "ms", "< 10", conditions=alone),
                Figure("run/p99 idle", percentile(idle, 0.99) * 1e3, "ms", conditions=alone),
                *await _costs(stack, users, database),
                *await _statements(users, database),
            ]
    finally:
        await admin.close()


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data")) as stack:
            await stack.ready(60)
            system = System(stack)
            try:
                return await _measure(system)
            finally:
                await system.close()
