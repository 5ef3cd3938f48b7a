"""Each statement that a run needs fails once, refused by PostgreSQL or done with its answer lost: whatever it is, the promises hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from carrel_chassis.stack import Stack, StackSettings
from tests.chaos.commits import POSTGRES_SETTINGS
from tests.chaos.faulty_postgres import Failure, FaultyPostgres, Statement
from tests.chaos.run_history import Accepted, RunHistory, check
from tests.chaos.run_record import Record, answered, recorded
from tests.support.follow import following
from tests.support.system import System, test_settings

RUNNING_LIMIT = 2
TRIES = 10
"""A statement of a sweep comes at its own time, and not in each run."""
OF_THE_DRIVER = ("typeinfo_tree", "set_config('jit'")
SETTINGS = {
    "CARREL_LEASE_SECONDS": "1",
    "CARREL_POLL_SECONDS": "0.5",
    "CARREL_RUNNING_RUNS_PER_USER": str(RUNNING_LIMIT),
    "CARREL_AGENT_MODULES": "tests.chaos.run_agents",
    "CARREL_LOG_LEVEL": "ERROR",
}


@dataclass
class Bench:
    """A system whose services reach PostgreSQL through the proxy, and the record of what they commit."""

    record: Record
    postgres: FaultyPostgres

    async def run(self, target: Statement | None, failure: Failure) -> tuple[RunHistory, list[Statement]]:
        """A run of a new user in which the target fails, until nothing of it is left to be done; and all statements of that time."""
        history = RunHistory(RUNNING_LIMIT)
        person = await self.record.system.person()
        owner = (person.tenant_id, person.user_id)
        async with following(self.record.system, person) as [follower]:
            for agent in ("chaos_asking", "chaos_everything"):
                if agent == "chaos_everything":  # from here on the user is known, and listens
                    self.postgres.arm(target, failure)
                run = await answered(lambda agent=agent: follower.client.start_run(agent, {}, "", f"request-{agent}"))  # type: ignore[misc]
                history.accepted.append(Accepted(owner, f"request-{agent}", run.run_id))
                await follower.until_final(run.run_id, seconds=20)
            await self.record.until_quiet(seconds=20)
            seen = self.postgres.disarm()
            await self.record.read_back(history, {owner: follower})
        return history, seen


@pytest_asyncio.fixture(scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder = tmp_path_factory.mktemp("statements")
    async with AsyncExitStack() as stack:
        settings = StackSettings(folder / "engines", fast=True, only=(), postgres_settings=POSTGRES_SETTINGS)
        engines = await stack.enter_async_context(Stack(settings))
        postgres = FaultyPostgres(engines.addresses["postgres"])
        await postgres.start()
        stack.push_async_callback(postgres.close)
        base = test_settings(folder / "data").service_environment
        services = Stack(
            test_settings(
                folder / "data",
                postgres_url=engines.admin_url.replace(engines.addresses["postgres"], f"127.0.0.1:{postgres.port}"),
                nats_url=engines.nats_url,
                service_environment={**base, **SETTINGS},
            )
        )
        await stack.enter_async_context(services)
        await services.ready(60)
        system = System(services)
        stack.push_async_callback(system.close)
        yield Bench(await recorded(system, engines.admin_url_of("carrel")), postgres)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("failure", list(Failure), ids=lambda failure: failure.value)
async def test_whichever_statement_of_a_run_fails_the_promises_hold(bench: Bench, failure: Failure) -> None:
    unharmed = []
    for _ in range(3):
        history, seen = await bench.run(None, failure)
        assert check(history) == []
        assert set(history.ended.values()) == {"SUCCEEDED"}
        unharmed.append(seen)
    # A sweep that happened to come is not in each of them; and what the driver asks when it opens a connection is not of the run.
    needed = [
        statement
        for statement in unharmed[-1]
        if all(statement in seen for seen in unharmed) and not any(sign in statement.sql for sign in OF_THE_DRIVER)
    ]
    assert len(needed) > 15, needed
    for target in needed:
        for _ in range(TRIES):
            history, seen = await bench.run(target, failure)
            assert check(history) == [], target
            if target in seen:
                break
        else:
            pytest.fail(f"not met again in {TRIES} runs: {target}")
