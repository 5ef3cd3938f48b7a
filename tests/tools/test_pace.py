"""Calls in a minute: as many as the limit says, of one user and of one tenant, in all processes together."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from sqlalchemy import text

from carrel_chassis.db.engine import Engine, cross_user_engine
from carrel_chassis.errors import CarrelError
from carrel_chassis.identity import ResourceLimits, UserContext
from carrel_tools.pace import Pace, Shares
from tests.support.expect import room_in_the_minute
from tests.support.system import Person, System


@pytest_asyncio.fixture
async def keeper(system: System) -> AsyncIterator[Engine]:
    engine = cross_user_engine(system.database_url("carrel_tools_keeper"), 4)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture(autouse=True)
async def _within_one_minute() -> None:
    await room_in_the_minute()


def limited(person: Person, user: int = 0, tenant: int = 0, **changes: str) -> UserContext:
    limits = ResourceLimits(tool_calls_per_minute=user)
    tenant_limits = ResourceLimits(tool_calls_per_minute=tenant)
    return replace(person.context, limits=limits, tenant_limits=tenant_limits, **changes)


async def taken(pace: Pace, user: UserContext, tries: int) -> int:
    """How many of so many calls were let through."""
    through = 0
    for _ in range(tries):
        try:
            await pace.take(user)
            through += 1
        except CarrelError as error:
            assert (error.reason, error.metadata["limit"]) == ("LIMIT_EXCEEDED", "tool_calls_per_minute")
            assert error.retry_seconds is not None and 0 < error.retry_seconds <= 60
    return through


@pytest.mark.parametrize("most", [1, 7, 20, 100, 333])
async def test_no_more_than_the_limit_pass_in_one_process_and_in_three(keeper: Engine, ada: Person, most: int):
    user = limited(ada, most)
    paces = [Pace(keeper) for _ in range(3)]
    through = sum(await asyncio.gather(*(taken(pace, user, most) for pace in paces)))
    # A process may hold back the rest of one share, a twentieth, while the others are refused.
    assert most - 2 * max(1, most // 20) <= through <= most
    assert await taken(Pace(keeper), user, 1) == 0


async def test_one_alone_has_all_of_it(keeper: Engine, ada: Person):
    assert await taken(Pace(keeper), limited(ada, 50), 60) == 50


async def test_a_tenants_limit_holds_for_its_users_together_and_for_no_other_tenant(
    keeper: Engine, ada: Person, eve: Person
):
    pace = Pace(keeper)
    people = [limited(ada, tenant=10, user_id=f"user-{number}") for number in range(4)]
    assert sum([await taken(pace, person, 5) for person in people]) == 10
    assert await taken(pace, limited(eve, tenant=10), 10) == 10


async def test_without_a_limit_nothing_is_counted(keeper: Engine, ada: Person):
    assert await taken(Pace(keeper), limited(ada), 100) == 100
    async with keeper.begin() as connection:
        count = text("SELECT count(*) FROM tool_pace WHERE tenant_id = :tenant_id")
        assert (await connection.execute(count, {"tenant_id": ada.tenant_id})).scalar_one() == 0


async def test_what_is_known_afterwards_is_counted_for_all_processes_and_for_each_user_alone(keeper: Engine):
    ada, eve = (("tenant-" + secrets.token_hex(6), "user-1") for _ in range(2))
    one, two = (Shares(keeper, "bytes", unasked=True) for _ in range(2))
    assert await one.left(ada, 1000) is None
    one.spend(ada, 40)
    assert await one.left(ada, 1000) is None  # the first share, which nobody has been asked for
    one.spend(ada, 910)
    assert await one.left(ada, 1000) is None  # 950 are counted now, and the last 50 given
    assert await two.left(ada, 1000) is None  # a share of its own that it has not asked for
    two.spend(ada, 50)
    seconds = await two.left(ada, 1000)
    assert seconds is not None and 0 < seconds <= 60
    assert await Shares(keeper, "cpu", unasked=True).left(ada, 1000) is None
    assert await two.left(eve, 1000) is None


async def test_many_at_once_lose_nothing_of_what_they_use(keeper: Engine):
    who = ("tenant-" + secrets.token_hex(6), "user-1")
    shares = Shares(keeper, "bytes")

    async def use() -> int:
        if await shares.left(who, 1000) is not None:
            return 0
        shares.spend(who, 1)
        return 1

    assert sum(await asyncio.gather(*(use() for _ in range(1500)))) == 1000


async def test_the_next_minute_begins_anew(keeper: Engine, ada: Person):
    now = time.monotonic()
    pace = Pace(keeper, lambda: now)
    user = limited(ada, 3)
    assert await taken(pace, user, 4) == 3
    now += 61
    async with keeper.begin() as connection:
        await connection.execute(
            text("UPDATE tool_pace SET minute = minute - 1 WHERE tenant_id = :tenant_id"), {"tenant_id": ada.tenant_id}
        )
    assert await taken(pace, user, 4) == 3
