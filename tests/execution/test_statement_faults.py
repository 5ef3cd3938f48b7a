"""Each statement that a run needs fails once, refused by PostgreSQL or done with its answer lost: whatever it is, the promises hold,
and the run comes to the end that it would have come to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
import pytest
import pytest_asyncio

from carrel.api.events.v1.event_pb2 import Event
from carrel.api.runs.v1 import run_service_pb2 as pb
from carrel.api.runs.v1 import run_service_pb2_grpc as rpc
from carrel.errors import client_error
from carrel_chassis.stack import Stack, StackSettings
from tests.chaos.commits import POSTGRES_SETTINGS
from tests.chaos.faulty_postgres import Failure, FaultyPostgres, Statement
from tests.chaos.history import Owner
from tests.chaos.run_history import Accepted, RunHistory, check
from tests.chaos.run_record import Record, answered, recorded
from tests.support.follow import Follower, following
from tests.support.system import System, test_settings

RUNNING_LIMIT = 2
TRIES = 25
"""A statement of a sweep comes at its own time, and not in each run."""
ALONE = 3
"""After so many tries two runs go side by side: how often a lease is renewed and how many events are appended together depends on time,
and with a run beside it there are more of both."""
SAMPLES = 6
"""What all of these runs send, each run needs."""
IDLE_SECONDS = 1.5
"""Each sweep comes in this time."""
OF_THE_DRIVER = ("typeinfo_tree", "set_config('jit'")
SETTINGS = {
    "CARREL_LEASE_SECONDS": "1",
    "CARREL_POLL_SECONDS": "0.1",
    "CARREL_CANCEL_SECONDS": "0.5",
    "CARREL_RUNNING_RUNS_PER_USER": str(RUNNING_LIMIT),
    "CARREL_AGENT_MODULES": "tests.chaos.run_agents",
    "CARREL_LOG_LEVEL": "ERROR",
}


@dataclass
class Bench:
    """A system whose services reach PostgreSQL through the proxy, and the record of what they commit."""

    record: Record
    postgres: FaultyPostgres


@dataclass
class Trial:
    """One user's runs, one after the other: in each of them another statement fails."""

    bench: Bench
    follower: Follower
    history: RunHistory = field(default_factory=lambda: RunHistory(RUNNING_LIMIT))
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def owner(self) -> Owner:
        return (self.follower.person.tenant_id, self.follower.person.user_id)

    async def run(self, play: Play, target: Statement, failure: Failure, at_once: int) -> bool:
        """Runs in which the target fails, to their ends and to what comes after them, if need be; whether the target came."""
        self.bench.postgres.arm(target, failure)
        for run_id in await asyncio.gather(*(play(self) for _ in range(at_once))):
            await self.follower.until_final(run_id, seconds=20)
        if not self.bench.postgres.failed:
            await self.quiet()
        self.bench.postgres.disarm()
        return self.bench.postgres.failed

    async def unharmed(self, play: Play) -> list[Statement]:
        """All statements of a run in which none fails, until nothing of it is left to be done."""
        self.bench.postgres.arm()
        await self.follower.until_final(await play(self), seconds=20)
        await self.quiet()
        return self.bench.postgres.disarm()

    async def quiet(self) -> None:
        await self.bench.record.until_quiet(seconds=20)

    async def call(self, method: str, request: Any) -> Any:
        """A call to agent-execution itself, until it is answered: a client would first wait for as long as it is told to."""
        peer = self.bench.record.system.peer("agent-execution")
        make = getattr(rpc.RunServiceStub(peer.channel), method)

        async def once() -> Any:
            try:
                return await make(request, metadata=self.follower.person.metadata, timeout=20)
            except grpc.aio.AioRpcError as error:
                raise client_error(error) from None

        return await answered(once)

    async def start(self, agent: str) -> str:
        request_id = f"request-{next(self.numbers)}"
        request = pb.StartRunRequest(request_id=request_id, agent=agent, input_json="{}")
        run_id: str = (await self.call("StartRun", request)).run.run_id
        self.history.accepted.append(Accepted(self.owner, request_id, run_id))
        return run_id

    async def told(self, run_id: str, type: str) -> Event:
        """What the user was told so of the run, as soon as that has come."""
        await self.follower.until(lambda: type in self.follower.types(run_id), seconds=20)
        return next(event for event in self.follower.of(run_id) if event.type == type)


Play = Callable[[Trial], Awaitable[str]]


async def working(trial: Trial) -> str:
    """A run that does everything by itself."""
    return await trial.start("chaos_everything")


async def waiting(trial: Trial) -> str:
    """A run that is tried again, waits for an answer and for a consent, and is cancelled by its user."""
    run_id = await trial.start("chaos_patient")
    question = (await trial.told(run_id, "input_requested")).input_requested
    await trial.call("ResolveWait", pb.ResolveWaitRequest(wait_id=question.wait_id, answer_json="true"))
    asked = (await trial.told(run_id, "approval_requested")).approval_requested
    trial.history.consented.add(json.loads(asked.arguments_json)["key"])
    consent = pb.ApprovalDecision(approved=True, arguments_digest=asked.arguments_digest)
    await trial.call("ResolveWait", pb.ResolveWaitRequest(wait_id=asked.approval_id, approval=consent))
    await trial.told(run_id, "agent_thinking")
    await trial.call("CancelRun", pb.CancelRunRequest(run_id=run_id, reason="enough"))
    return run_id


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
@pytest.mark.parametrize(("play", "end"), [(working, "SUCCEEDED"), (waiting, "CANCELLED")], ids=["working", "waiting"])
async def test_whichever_statement_of_a_run_fails_it_ends_as_it_would_have(
    bench: Bench, play: Play, end: str, failure: Failure
) -> None:
    person = await bench.record.system.person()
    async with following(bench.record.system, person) as [follower]:
        trial = Trial(bench, follower)
        await trial.unharmed(play)  # from here on the user is known, and listens
        targets: dict[str, Statement] = {}
        for target in await needed(trial, play):
            for tried in range(TRIES):
                begun = len(trial.history.accepted)
                met = await trial.run(play, target, failure, at_once=1 if tried < ALONE else 2)
                targets |= {each.run_id: target for each in trial.history.accepted[begun:]}
                if met:
                    break
            else:
                pytest.fail(f"not met again in {TRIES} runs: {target}")
        await trial.quiet()
        await bench.record.read_back(trial.history, {trial.owner: follower})
    assert check(trial.history) == [], targets
    assert {run_id: targets.get(run_id) for run_id, state in trial.history.ended.items() if state != end} == {}


async def needed(trial: Trial, play: Play) -> list[Statement]:
    """What each run needs; of what is asked all the time, with runs or without, the first is as good as the next.

    A sweep that happened to come is not in each of the runs; and what the driver asks when it opens a connection is not of the run.
    """
    postgres = trial.bench.postgres
    postgres.arm()
    await asyncio.sleep(IDLE_SECONDS)
    sweeps = {(each.role, each.sql) for each in postgres.disarm()}
    *others, last = [await trial.unharmed(play) for _ in range(SAMPLES)]
    found = [
        each
        for each in last
        if all(each in seen for seen in others)
        and not (each.place > 1 and (each.role, each.sql) in sweeps)
        and not any(sign in each.sql for sign in OF_THE_DRIVER)
    ]
    assert len(found) > 15, found
    return found
