"""Schedules when the process that starts them is killed: each occurrence still starts one run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from carrel_chassis.stack import Stack
from tests.execution.test_schedules import Schedules
from tests.execution.test_survival import SERVICES
from tests.support.expect import eventually
from tests.support.system import System, test_settings

SCHEDULES = 30


@pytest_asyncio.fixture
async def fragile(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Its execution process is killed."""
    async with Stack(test_settings(tmp_path_factory.mktemp("schedules") / "data", only=SERVICES)) as stack:
        await stack.ready(60)
        system = System(stack)
        yield system
        await system.close()


async def test_each_occurrence_starts_one_run_though_its_process_is_killed_again_and_again(fragile: System) -> None:
    database = await asyncpg.connect(fragile.database_url("postgres", driver="postgresql"))
    try:
        schedules = Schedules(fragile, await fragile.person(), database)
        for _ in range(SCHEDULES):
            await schedules.create()
        due = datetime.now(UTC) - timedelta(hours=1)
        await database.execute("UPDATE execution.schedule SET next_time = $1", due)

        async def started(count: int) -> bool:
            # A process that is dead holds what it has taken for 30 s; that these are over is what this says.
            await database.execute(
                "UPDATE execution.schedule SET hold_until = '-infinity' WHERE hold_until < now() + interval '29 s'"
            )
            return int(await database.fetchval("SELECT count(*) FROM execution.run")) >= count

        for count in (1, SCHEDULES // 3, 2 * SCHEDULES // 3):
            await eventually(lambda count=count: started(count), seconds=30)  # type: ignore[misc]
            fragile.stack.kill("execution")
            await fragile.stack.ready(30)

        async def all_went_on() -> bool:
            await started(SCHEDULES)
            query = "SELECT bool_and(next_time > $1 AND last_run_id <> '') FROM execution.schedule"
            return bool(await database.fetchval(query, due))

        await eventually(all_went_on, seconds=30)
        runs = await database.fetch("SELECT schedule_id, request_id FROM execution.run")
        assert len({row["schedule_id"] for row in runs}) == len(runs) == SCHEDULES
        assert {row["request_id"].rpartition(".")[2] for row in runs} == {str(int(due.timestamp()))}
    finally:
        await database.close()
