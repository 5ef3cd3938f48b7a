"""One round: users start, cancel and follow runs while everything is killed and paused; all of it is recorded.

What happens is drawn from the round's seed before it begins; in which microsecond it meets what the others do is left to the machine.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from carrel.api.runs.v1.run_pb2 import BusyThread
from carrel.errors import CarrelClientError
from tests.chaos.history import Owner
from tests.chaos.round import Blow
from tests.chaos.run_history import Accepted, RunHistory
from tests.chaos.run_record import PASSING, answered
from tests.chaos.run_stack import LEASE_SECONDS, RUNNING_LIMIT, WORKERS, RunStack
from tests.support.follow import Follower, following

_HEAL_SECONDS = 60.0
_PAUSES = 0.5
"""Which part of the blows are pauses."""


@dataclass(frozen=True)
class Start:
    """A run that a user will ask for."""

    at_seconds: float
    agent: str
    input: dict[str, Any]
    thread_id: str
    """Empty: one of its own."""
    cancel_after_seconds: float | None
    interrupts: bool
    """It cancels what its thread is at; otherwise it waits for its turn."""
    priority: int
    delay_seconds: float
    """After it was asked for; 0: as soon as it may."""


@dataclass(frozen=True)
class RunPlan:
    """What the seed says: the runs of each user, and the blows."""

    starts: tuple[tuple[Start, ...], ...]
    blows: tuple[Blow, ...]

    @classmethod
    def of(cls, chance: random.Random, victims: Sequence[str], blows: int) -> RunPlan:
        struck: list[Blow] = []
        at = 0.2
        for _ in range(blows):
            victim = chance.choice((*victims, *WORKERS))  # the workers twice as often as others
            # PostgreSQL is many processes: stopping the first of them stops nothing, so it is killed.
            paused = victim != "postgres" and chance.random() < _PAUSES
            # A worker that wakes must find its leases gone.
            shortest = 1.2 * LEASE_SECONDS if victim in WORKERS else 0.3
            struck.append(Blow(at, victim, chance.uniform(shortest, 2 * LEASE_SECONDS) if paused else 0.0))
            at += chance.uniform(0.3, 1.1)
        starts = tuple(
            tuple(_start(chance, at) for _ in range(max(4, int(at * 1.5)))) for _ in range(chance.randint(3, 5))
        )
        return cls(starts, tuple(struck))


def _start(chance: random.Random, until: float) -> Start:
    agent, input = chance.choice(
        (
            ("chaos_asking", {}),
            ("chaos_acting", {"acts": chance.randint(1, 5)}),
            ("chaos_caged", {"acts": chance.randint(1, 5)}),
            ("chaos_keeping", {}),
            ("chaos_keeping", {}),
            ("chaos_stepping", {"steps": chance.randint(1, 5)}),
            ("chaos_waiting", {}),
            ("chaos_retrying", {}),
            ("chaos_delegating", {}),
            ("chaos_lasting", {"seconds": chance.uniform(0.3, 2 * LEASE_SECONDS)}),
        )
    )
    return Start(
        at_seconds=chance.uniform(0.0, until),
        agent=agent,
        input=input,
        thread_id=chance.choice(("", "", "thread-1", "thread-2")),
        cancel_after_seconds=chance.uniform(0.0, 1.5) if chance.random() < 0.2 else None,
        interrupts=chance.random() < 0.1,
        priority=chance.choice((0, 0, 0, -100, 5, 100)),
        delay_seconds=chance.uniform(0.2, 3.0) if chance.random() < 0.15 else 0.0,
    )


class RunRound:
    """Plays a plan and records it."""

    def __init__(self, running: RunStack, seed: str, blows: int) -> None:
        self.running = running
        self.plan = RunPlan.of(random.Random(seed), running.victims, blows)
        self.history = RunHistory(running_limit=RUNNING_LIMIT)
        self._seed = seed

    async def play(self) -> RunHistory:
        """Returns the whole history; raises AssertionError when the system does not heal."""
        people = [await self.running.system.person() for _ in self.plan.starts]
        async with following(self.running.system, *people) as followers, _answering(followers):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._strike())
                for follower, starts in zip(followers, self.plan.starts, strict=True):
                    for number, start in enumerate(starts):
                        tasks.create_task(self._ask(follower, f"{self._seed}-{number}", start))
            await self.running.record.until_quiet(_HEAL_SECONDS)
            await self.running.record.read_back(self.history, {_owner(each): each for each in followers})
        return self.history

    async def _strike(self) -> None:
        begin = time.monotonic()
        async with asyncio.TaskGroup() as pauses:
            for blow in self.plan.blows:
                await asyncio.sleep(max(0.0, begin + blow.at_seconds - time.monotonic()))
                if blow.pause_seconds:
                    pauses.create_task(self._pause(blow))
                else:
                    self.running.signal(blow.victim, signal.SIGKILL)

    async def _pause(self, blow: Blow) -> None:
        self.running.signal(blow.victim, signal.SIGSTOP)
        try:
            await asyncio.sleep(blow.pause_seconds)
        finally:
            self.running.signal(blow.victim, signal.SIGCONT)

    async def _ask(self, follower: Follower, request_id: str, start: Start) -> None:
        """Starts a run, as often as it takes to get an answer, and cancels it if the plan says so."""
        await asyncio.sleep(start.at_seconds)
        client = follower.client
        busy_thread = BusyThread.BUSY_THREAD_INTERRUPT if start.interrupts else BusyThread.BUSY_THREAD_ENQUEUE
        earliest = datetime.now(UTC) + timedelta(seconds=start.delay_seconds) if start.delay_seconds else None
        run = await answered(
            lambda: client.start_run(
                start.agent,
                start.input,
                start.thread_id,
                request_id,
                busy_thread=busy_thread,
                priority=start.priority,
                earliest_start_time=earliest,
            )
        )
        self.history.accepted.append(Accepted(_owner(follower), request_id, run.run_id))
        if start.cancel_after_seconds is not None:
            await asyncio.sleep(start.cancel_after_seconds)
            await answered(lambda: client.cancel_run(run.run_id, "enough"))


def _owner(follower: Follower) -> Owner:
    return (follower.person.tenant_id, follower.person.user_id)


@asynccontextmanager
async def _answering(followers: Sequence[Follower]) -> AsyncIterator[None]:
    """Within it every question to one of the users is answered soon, whatever breaks."""
    answerers = [asyncio.create_task(_answer_all(follower)) for follower in followers]
    try:
        yield
    finally:
        for answerer in answerers:
            answerer.cancel()
        for end in await asyncio.gather(*answerers, return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                raise AssertionError("a question could not be answered") from end


async def _answer_all(follower: Follower) -> None:
    """Until it is cancelled. What was answered already, or is over, is no longer listed."""
    client = follower.client
    while True:
        try:
            async with aclosing(client.list_waits()) as waits:
                async for wait in waits:
                    await client.answer_wait(wait.wait_id, True)
        except CarrelClientError as error:
            if error.reason not in {*PASSING, "WAIT_OVER"}:
                raise
        await asyncio.sleep(0.2)
