"""One round: users write and read through both replicas while things are killed, paused and lost; everything is recorded.

What happens is drawn from the round's seed before it begins; in which microsecond it meets what the others do is left to the machine.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from carrel.api.events.v1 import event_pb2
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel.api.events.v1 import event_service_pb2_grpc as rpc
from carrel_chassis.identity import UserContext
from carrel_chassis.rpc.channel import Peer
from tests.chaos.history import Entry, History, Owner, Reading, Wanted
from tests.chaos.replicas import NAMES, Replicas

TYPES = ("agent_thinking", "tool_executing", "progress_update", "custom")
_SILENCE_SECONDS = 2.0
"""Heartbeats come more often: a stream that is silent for so long is dead."""
_HEAL_SECONDS = 45.0


@dataclass(frozen=True)
class Blow:
    """A fault to inject."""

    at_seconds: float
    victim: str
    pause_seconds: float = 0.0
    """0 kills it; otherwise it is stopped for so long."""

    def __str__(self) -> str:
        what = f"pause {self.pause_seconds:.1f} s" if self.pause_seconds else "kill -9"
        return f"{what} {self.victim} at {self.at_seconds:.1f} s"


@dataclass(frozen=True)
class Plan:
    """What the seed says."""

    users: int
    runs: int
    appends: int
    readers: int
    lost_share: float
    blows: tuple[Blow, ...]

    @classmethod
    def of(cls, chance: random.Random, victims: Sequence[str]) -> Plan:
        blows = []
        for _ in range(chance.choice((0, 1, 1, 2))):
            pause = chance.uniform(0.3, 1.5) if chance.random() < 0.4 else 0.0
            # PostgreSQL is many processes: stopping the first of them stops nothing, so it is killed.
            victim = chance.choice(victims if not pause else [*NAMES, "nats"])
            blows.append(Blow(chance.uniform(0.1, 1.2), victim, pause))
        return cls(
            users=chance.randint(2, 4),
            runs=chance.randint(1, 3),
            appends=chance.randint(8, 30),
            readers=chance.randint(1, 4),
            lost_share=chance.choice((0.0, 0.05, 0.5)),
            blows=tuple(sorted(blows, key=lambda blow: blow.at_seconds)),
        )


class Person:
    """One user: contexts for their runs, and stubs at both replicas."""

    def __init__(self, system: Replicas, runs: int) -> None:
        name = secrets.token_hex(6)
        self.owner: Owner = (f"tenant-{name}", f"user-{name}")
        self.runs = [f"run-{number}-{name}" for number in range(runs)]
        self.peers = system.peers
        self.stubs: list[rpc.EventServiceAsyncStub] = [rpc.EventServiceStub(peer.channel) for peer in system.peers]
        self._signed = {run_id: self._sign(system, run_id, number) for number, run_id in enumerate(self.runs)}

    def _sign(self, system: Replicas, run_id: str, number: int) -> bytes:
        now = time.time()
        context = UserContext(
            context_id=f"ctx-{secrets.token_hex(6)}",
            tenant_id=self.owner[0],
            user_id=self.owner[1],
            session_id="session-of-a-round",
            scopes=frozenset({"events.read"}),
            audiences=frozenset({"event-stream"}),
            issue_time=now,
            expire_time=now + 290,
            request_id=f"request-{secrets.token_hex(6)}",
            thread_id=f"thread-{number % 2}",
            run_id=run_id,
            agent="chaos",
            attempt=1,
        )
        return system.signer.sign(context).SerializeToString(deterministic=True)

    def metadata(self, peer: Peer, run_id: str = "") -> tuple[tuple[str, str | bytes], ...]:
        return peer.metadata(self._signed[run_id or self.runs[0]])


class Round:
    """Plays a plan and records it."""

    def __init__(self, system: Replicas, seed: str) -> None:
        self.system = system
        self.chance = random.Random(seed)
        self.plan = Plan.of(self.chance, system.victims)
        self.history = History()
        self.resumes = 0
        self._people = [Person(system, self.plan.runs) for _ in range(self.plan.users)]
        self._written = asyncio.Event()
        self._ends: dict[Owner, int] = {}

    async def play(self) -> History:
        """Returns the whole history; raises TimeoutError when the system does not heal."""
        self.system.nats.random.seed(self.chance.random())
        self.system.nats.share = self.plan.lost_share
        async with asyncio.timeout(_HEAL_SECONDS), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._strike())
            for person in self._people:
                for number in range(self.plan.readers):
                    chance = random.Random(self.chance.random())
                    tasks.create_task(self._read(person, f"reader {number}", chance))
            writers = [
                tasks.create_task(self._write(person, run_id, random.Random(self.chance.random())))
                for person in self._people
                for run_id in person.runs
            ]
            await asyncio.gather(*writers)
            for person in self._people:
                self.history.logs[person.owner] = await self._log(person)
                self._ends[person.owner] = len(self.history.logs[person.owner])
            self._written.set()
        return self.history

    async def _strike(self) -> None:
        begin = time.monotonic()
        for blow in self.plan.blows:
            await asyncio.sleep(max(0.0, begin + blow.at_seconds - time.monotonic()))
            if not blow.pause_seconds:
                self.system.signal(blow.victim, signal.SIGKILL)
                continue
            self.system.signal(blow.victim, signal.SIGSTOP)
            try:
                await asyncio.sleep(blow.pause_seconds)
            finally:
                self.system.signal(blow.victim, signal.SIGCONT)

    async def _write(self, person: Person, run_id: str, chance: random.Random) -> None:
        """A run: it sends its next events when the last ones are acknowledged, and the same ones again when no answer came."""
        for _ in range(self.plan.appends):
            events = [_event(chance) for _ in range(chance.randint(1, 4))]
            self.history.sent[person.owner] += [event.event_id for event in events]
            await self._append(person, run_id, events, chance)
            self.history.acknowledged[person.owner].update(event.event_id for event in events)
            await asyncio.sleep(chance.uniform(0, 0.08))

    async def _append(
        self, person: Person, run_id: str, events: Sequence[event_pb2.Event], chance: random.Random
    ) -> None:
        """Returns when they are acknowledged, by either replica."""
        request = pb.AppendEventsRequest(events=events)
        while True:
            replica = chance.randrange(2)
            try:
                metadata = person.metadata(person.peers[replica], run_id)
                await person.stubs[replica].AppendEvents(request, metadata=metadata, timeout=1.5)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
            await asyncio.sleep(0.05)

    async def _read(self, person: Person, name: str, chance: random.Random) -> None:
        """A reader: it leaves and comes back after its last position, or after an earlier one, until it has seen the log's end."""
        wanted, at = self._wanted(person, chance), event_pb2.Cursor()
        while True:
            reading = Reading(f"{name} ({wanted})", person.owner, wanted, at.offset, at.offset)
            self.history.readings.append(reading)
            leave = chance.uniform(0.1, 1.5)
            at = await self._stream(person, reading, at, chance, leave)
            if reading.to_the_end:
                return
            self.resumes += 1
            if at.offset and chance.random() < 0.2:
                at = event_pb2.Cursor(epoch=at.epoch, offset=chance.randrange(at.offset + 1))
            await asyncio.sleep(0.02)

    async def _stream(
        self, person: Person, reading: Reading, at: event_pb2.Cursor, chance: random.Random, seconds: float
    ) -> event_pb2.Cursor:
        replica, slow = chance.randrange(2), chance.random() < 0.15
        wanted = reading.wanted
        filter = event_pb2.EventFilter(thread_id=wanted.thread_id, run_id=wanted.run_id, types=sorted(wanted.types))
        policy = chance.choice((event_pb2.SLOW_READER_DISCONNECT, event_pb2.SLOW_READER_COALESCE))
        request = pb.SubscribeRequest(after=at, filter=filter, slow_reader=policy)
        call = person.stubs[replica].Subscribe(request, metadata=person.metadata(person.peers[replica]))
        leave = time.monotonic() + seconds
        try:
            while time.monotonic() < leave or self._written.is_set():
                message = await asyncio.wait_for(call.read(), _SILENCE_SECONDS)
                if not isinstance(message, pb.SubscribeResponse):
                    break
                at = message.position
                reading.received += [entry(event) for event in message.events]
                reading.position = at.offset
                if self._written.is_set() and at.offset == self._ends[person.owner]:
                    reading.to_the_end = True
                    break
                if slow:
                    await asyncio.sleep(chance.uniform(0.05, 0.3))
        except grpc.aio.AioRpcError as error:
            # RESOURCE_EXHAUSTED: it was too slow, or its last stream is not known to be over.
            if error.code() not in _PASSING and error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        except TimeoutError:
            pass
        finally:
            call.cancel()
        return at

    def _wanted(self, person: Person, chance: random.Random) -> Wanted:
        match chance.randrange(5):
            case 0:
                return Wanted(run_id=chance.choice(person.runs))
            case 1:
                return Wanted(thread_id=f"thread-{chance.randrange(2)}")
            case 2:
                return Wanted(types=frozenset(chance.sample(TYPES, 2)))
            case _:
                return Wanted()

    async def _log(self, person: Person) -> list[Entry]:
        """The whole log, as whoever lists it sees it."""
        found: list[Entry] = []
        request = pb.ListEventsRequest(page_size=1000)
        while True:
            replica = len(found) % 2
            try:
                metadata = person.metadata(person.peers[replica])
                page = await person.stubs[replica].ListEvents(request, metadata=metadata, timeout=5)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
                await asyncio.sleep(0.1)
                continue
            found += [entry(event) for event in page.events]
            request.after.CopyFrom(page.position)
            if not page.more:
                return found


_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


def entry(event: event_pb2.Event) -> Entry:
    owner = (event.tenant_id, event.user_id)
    return Entry(owner, event.cursor.offset, event.event_id, event.run_id, event.thread_id, event.type)


def _event(chance: random.Random) -> event_pb2.Event:
    size = chance.choice((10, 10, 300, 20_000))
    payload = event_pb2.AgentThinking(text="x" * size)
    return event_pb2.Event(event_id=f"event-{secrets.token_hex(8)}", type=chance.choice(TYPES), agent_thinking=payload)
