"""One round: users start, cancel and follow runs while everything is killed and paused; all of it is recorded.

What happens is drawn from the round's seed before it begins; in which microsecond it meets what the others do is left to the machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from carrel import Client
from carrel.api.runs.v1.run_pb2 import BusyThread, Wait, WaitKind
from carrel.errors import CarrelClientError, Conflict
from tests.chaos.history import Owner
from tests.chaos.round import Blow
from tests.chaos.run_agents import CONSENTED
from tests.chaos.run_history import Accepted, Rejected, RunHistory
from tests.chaos.run_record import PASSING, answered
from tests.chaos.run_stack import LEASE_SECONDS, RUNNING_LIMIT, WORKERS, RunStack
from tests.support.follow import Follower, following

_HEAL_SECONDS = 60.0
_PAUSES = 0.5
"""Which part of the blows are pauses."""
_BUSY_THREAD = {
    BusyThread.BUSY_THREAD_ENQUEUE: 0.7,
    BusyThread.BUSY_THREAD_REJECT: 0.1,
    BusyThread.BUSY_THREAD_INTERRUPT: 0.1,
    BusyThread.BUSY_THREAD_ROLLBACK: 0.1,
}
"""Which part of the runs want what of those before them."""


@dataclass(frozen=True)
class Start:
    """A run that a user will ask for."""

    at_seconds: float
    agent: str
    input: dict[str, Any]
    thread_id: str
    """Empty: one of its own."""
    cancel_after_seconds: float | None
    busy_thread: BusyThread.ValueType
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
        starts = tuple(_starts(chance, at) for _ in range(chance.randint(3, 5)))
        return cls(starts, tuple(struck))


def _starts(chance: random.Random, until: float) -> tuple[Start, ...]:
    """The runs of one user."""
    alone = [_start(chance, until) for _ in range(max(4, int(until * 1.5)))]
    meeting = [start for _ in range(max(1, int(until * 0.3))) for start in _meeting(chance, until)]
    return (*alone, *meeting)


def _meeting(chance: random.Random, until: float) -> tuple[Start, Start]:
    """A run that has left something in its thread and is still there, and one that comes upon it."""
    staying = Start(
        at_seconds=chance.uniform(0.0, until),
        agent="chaos_keeping",
        input={"seconds": 3.0},
        thread_id="thread-3",
        cancel_after_seconds=None,
        busy_thread=BusyThread.BUSY_THREAD_ENQUEUE,
        priority=100,
        delay_seconds=0.0,
    )
    policies = (BusyThread.BUSY_THREAD_REJECT, BusyThread.BUSY_THREAD_INTERRUPT, BusyThread.BUSY_THREAD_ROLLBACK)
    later = staying.at_seconds + chance.uniform(0.5, 3.0)
    return staying, replace(staying, at_seconds=later, busy_thread=chance.choice(policies), input={"seconds": 0.0})


def _start(chance: random.Random, until: float) -> Start:
    agent, input = chance.choice(
        (
            ("chaos_asking", {}),
            ("chaos_acting", {"acts": chance.randint(1, 5)}),
            ("chaos_caged", {"acts": chance.randint(1, 5)}),
            ("chaos_keeping", {"seconds": chance.uniform(0.0, 1.0)}),
            ("chaos_keeping", {"seconds": chance.uniform(0.0, 1.0)}),
            ("chaos_stepping", {"steps": chance.randint(1, 5)}),
            ("chaos_waiting", {}),
            ("chaos_consenting", {"answers": [chance.random() < 0.7 for _ in range(chance.randint(1, 3))]}),
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
        busy_thread=chance.choices(tuple(_BUSY_THREAD), tuple(_BUSY_THREAD.values()))[0],
        priority=chance.choice((0, 0, 0, -100, 5, 100)),
        delay_seconds=chance.uniform(0.2, 3.0) if chance.random() < 0.15 else 0.0,
    )


class RunRound:
    """Plays a plan and records it."""

    def __init__(self, running: RunStack, seed: str, blows: int) -> None:
        self.running = running
        self.plan = RunPlan.of(random.Random(seed), running.victims, blows)
        # No agent of the rounds fails for good by itself: a run that does so has paid for somebody's absence.
        self.history = RunHistory(RUNNING_LIMIT, frozenset({"SUCCEEDED", "CANCELLED"}))
        self._seed = seed

    async def play(self) -> RunHistory:
        """Returns the whole history; raises AssertionError when the system does not heal."""
        people = [await self.running.system.person() for _ in self.plan.starts]
        async with (
            following(self.running.system, *people) as followers,
            _answering(followers, self.history.consented),
        ):
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
        """Starts a run, as often as it takes to get an answer, and cancels it if the plan says so. It may be refused a busy thread."""
        await asyncio.sleep(start.at_seconds)
        client = follower.client
        earliest = datetime.now(UTC) + timedelta(seconds=start.delay_seconds) if start.delay_seconds else None
        try:
            run = await answered(
                lambda: client.start_run(
                    start.agent,
                    start.input,
                    start.thread_id,
                    request_id,
                    busy_thread=start.busy_thread,
                    priority=start.priority,
                    earliest_start_time=earliest,
                )
            )
        except Conflict as refusal:
            if refusal.reason != "THREAD_BUSY":
                raise
            self.history.rejected.append(Rejected(_owner(follower), request_id))
            return
        self.history.accepted.append(Accepted(_owner(follower), request_id, run.run_id))
        if start.cancel_after_seconds is not None:
            await asyncio.sleep(start.cancel_after_seconds)
            await answered(lambda: client.cancel_run(run.run_id, "enough"))


def _owner(follower: Follower) -> Owner:
    return (follower.person.tenant_id, follower.person.user_id)


@asynccontextmanager
async def _answering(followers: Sequence[Follower], consented: set[str]) -> AsyncIterator[None]:
    """Within it every question to one of the users is answered soon, whatever breaks; what they consent to is added."""
    answerers = [asyncio.create_task(_answer_all(follower.client, consented)) for follower in followers]
    try:
        yield
    finally:
        for answerer in answerers:
            answerer.cancel()
        for end in await asyncio.gather(*answerers, return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                raise AssertionError("a question could not be answered") from end


async def _answer_all(client: Client, consented: set[str]) -> None:
    """Until it is cancelled. What was answered already, or is over, is no longer listed."""
    while True:
        try:
            async with aclosing(client.list_waits()) as waits:
                async for wait in waits:
                    await _answer(client, wait, consented)
        except CarrelClientError as error:
            if error.reason not in {*PASSING, "WAIT_OVER"}:
                raise
        await asyncio.sleep(0.2)


async def _answer(client: Client, wait: Wait, consented: set[str]) -> None:
    if wait.kind != WaitKind.WAIT_KIND_APPROVAL:
        await client.answer_wait(wait.wait_id, True)
        return
    key = json.loads(wait.arguments_json)["key"]
    approved = key.endswith(CONSENTED)
    if approved:
        consented.add(key)  # before: the answer may arrive although its own answer does not
    await client.decide_wait(wait, approved=approved)
