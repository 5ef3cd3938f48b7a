"""What was wished for a run, in the database itself: what the service refuses has no row, whoever writes it."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy import text

from carrel_execution.domain import BusyThread, OnDisconnect
from carrel_execution.runs.start import MAX_PRIORITY
from tests.execution.conftest import Desk


async def written(desk: Desk, column: str, value: object) -> None:
    """A run of which the row is given this value, below the service."""
    run = await desk.start()
    async with desk.runner.begin() as connection:
        await connection.execute(
            text(f"UPDATE run SET {column} = :value WHERE run_id = :run_id"), {"value": value, "run_id": run.run_id}
        )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("priority", MAX_PRIORITY + 1),
        ("priority", -MAX_PRIORITY - 1),
        ("busy_thread", "enqueue"),
        ("busy_thread", ""),
        ("on_disconnect", "KILL"),
    ],
)
async def test_what_is_impossible_is_refused(desk: Desk, column: str, value: object) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await written(desk, column, value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("priority", priority) for priority in (-MAX_PRIORITY, 0, MAX_PRIORITY)),
        *(("busy_thread", str(one)) for one in BusyThread),
        *(("on_disconnect", str(one)) for one in OnDisconnect),
    ],
)
async def test_all_that_the_service_knows_is_possible(desk: Desk, column: str, value: object) -> None:
    await written(desk, column, value)
