"""`python -m tests.chaos.tools --kills N --seed S`: tool calls under kills between intent, effect and result, and whether each effect
happened as often as the ledger says.

A victim is killed with SIGKILL while calls are under way at it; the same steps are then asked for at another replica, as the next attempt
of the run would ask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvloop

from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel.api.tools.v1 import tool_service_pb2_grpc as rpc
from carrel_chassis.db.migrate import migrate
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.rpc.status import from_rpc_error
from carrel_chassis.signing import ContextSigner, ServiceSigner, read_key
from carrel_chassis.stack import Stack, StackSettings
from carrel_chassis.stack.health import until_serving
from carrel_chassis.stack.ports import free_ports
from carrel_chassis.stack.process import ChildProcess, Command
from carrel_chassis.stack.roles import MIGRATOR
from tests.support.forge import genuine_signer, raw
from tests.support.system import ROOT, System

REPLICAS = 3
CALLS = 6
"""Under way at each kill."""
POSTGRES_SHARE = 0.04
"""Of the kills, those of the database: what it has acknowledged it must keep."""
_LONGEST_PAUSE_SECONDS = 0.04
_HEAL_SECONDS = 60.0

# The launcher remarks on every child that dies; here that is the work.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


class Dispatchers:
    """Replicas of tool-dispatch on one PostgreSQL."""

    def __init__(self, stack: Stack, signer: ContextSigner, effects: Path) -> None:
        self.stack = stack
        self.signer = signer
        self.effects = effects
        self.peers: list[Peer] = []
        self._addresses: list[str] = []
        self._commands: list[Command] = []
        self._children: dict[int, ChildProcess] = {}
        self._starting: dict[int, asyncio.Task[None]] = {}

    async def add(self, data_dir: Path) -> None:
        """Starts one more replica and waits until it serves."""
        number = len(self.peers)
        [port] = free_ports(1)
        environment = {
            **self.stack.service_environment("tools"),
            "CARREL_LISTEN": f"127.0.0.1:{port}",
            "CARREL_METRICS_LISTEN": "",
            "CARREL_LOG_LEVEL": "WARNING",
            "CARREL_TOOL_MODULES": "tests.support.tools",
            "CARREL_TEST_EFFECTS": str(self.effects),
            "PYTHONPATH": str(ROOT),
        }
        arguments = [sys.executable, "-P", "-m", "carrel_tools"]
        log = data_dir / "logs" / f"tools-{number}.log"
        self._commands.append(Command(f"tools-{number}", arguments, environment, log=log, folder=data_dir))
        self._starting[number] = asyncio.create_task(self._start(number))
        self._addresses.append(f"127.0.0.1:{port}")
        key = read_key(data_dir / "keys" / "agent-execution.key")
        self.peers.append(Peer("tool-dispatch", self._addresses[-1], ServiceSigner("agent-execution", key, time.time)))
        await self.serving(number)

    async def serving(self, number: int) -> None:
        """Waits until the replica serves."""
        async with asyncio.timeout(_HEAL_SECONDS):
            await self._starting[number]
            await until_serving(self._addresses[number], self._commands[number].environment, lambda: None)

    def kill(self, number: int) -> None:
        """As a power failure would; another takes its place."""
        self._children[number].kill(signal.SIGKILL)
        self._starting[number] = asyncio.create_task(self._start(number))

    async def _start(self, number: int) -> None:
        # A new child each time: the launcher makes one wait for longer and longer that dies again and again.
        if (killed := self._children.get(number)) is not None:
            await killed.stop()
        self._children[number] = ChildProcess(self._commands[number])
        await self._children[number].start()

    async def stop(self) -> None:
        for peer in self.peers:
            await peer.close()
        for number, starting in self._starting.items():
            await starting
            await self._children[number].stop()

    def happened(self) -> Counter[str]:
        """How often each key took effect."""
        return Counter(self.effects.read_text().splitlines()) if self.effects.exists() else Counter()


@asynccontextmanager
async def dispatchers(data_dir: Path, replicas: int = REPLICAS) -> AsyncIterator[Dispatchers]:
    """Everything, until the end of the block."""
    async with AsyncExitStack() as stack:
        # fsync on: a PostgreSQL that is killed must have kept what it acknowledged.
        settings = StackSettings(data_dir, only=("context",), service_environment={"CARREL_LOG_LEVEL": "WARNING"})
        engines = await stack.enter_async_context(Stack(settings))
        await engines.ready(60)
        await migrate(engines.database_url(MIGRATOR), "carrel_tools")
        running = Dispatchers(engines, await genuine_signer(System(engines)), data_dir.parent / "effects")
        stack.push_async_callback(running.stop)
        for _ in range(replicas):
            await running.add(data_dir)
        yield running


@dataclass
class Case:
    """One step: what was asked, what was answered at the victim and at its successor, how often it took effect."""

    tool: str
    key: str
    first: str = ""
    """"ok", or the reason of the refusal; the victim's answer, if one came."""
    second: str = ""
    effects: int = 0

    def fault(self) -> str:
        """What must not be; empty when all is well."""
        at_most_once = self.tool == "count"
        if self.second not in (("ok", "OUTCOME_UNKNOWN") if at_most_once else ("ok",)):
            return f"the successor answered {self.second}"
        if self.first == "ok" and self.second != "ok":
            return "a result that had been told was forgotten"
        if self.effects > 1:
            return f"{self.effects} effects"
        if self.second == "ok" and self.effects != 1:
            return "a success without an effect"
        return ""


class Round:
    """Calls of one run, a kill, and the same calls again."""

    def __init__(self, system: Dispatchers, chance: random.Random) -> None:
        self._system = system
        self._chance = chance
        self._user = f"user-{secrets.token_hex(6)}"
        self._run_id = f"run-{secrets.token_hex(6)}"
        self.cases = [Case(chance.choice(("count", "post")), secrets.token_hex(8)) for _ in range(CALLS)]

    async def play(self, victim: int, successor: int) -> list[Case]:
        """Kills the victim in the middle; the cases with what came of them."""
        # The database is the victim of all at once.
        postgres = self._chance.random() < POSTGRES_SHARE
        # What each call is asked is the same both times: other arguments would be another call.
        arguments = [self._arguments(case) for case in self.cases]
        kill_after = self._chance.uniform(0.0, 2 * _LONGEST_PAUSE_SECONDS)
        metadata = self._metadata(victim, 1)
        calls = [self._call(victim, metadata, *each) for each in zip(self.cases, arguments, strict=True)]
        under_way = asyncio.gather(*calls)
        await asyncio.sleep(kill_after)
        if postgres:
            self._system.stack.kill("postgres", signal.SIGKILL)
        else:
            self._system.kill(victim)
        for case, answer in zip(self.cases, await under_way, strict=True):
            case.first = answer
        metadata = self._metadata(successor, 2)
        again = [self._persist(successor, metadata, *each) for each in zip(self.cases, arguments, strict=True)]
        for case, answer in zip(self.cases, await asyncio.gather(*again), strict=True):
            case.second = answer
        happened = self._system.happened()
        for case in self.cases:
            case.effects = happened[case.key]
        return self.cases

    def _arguments(self, case: Case) -> str:
        pauses = [self._chance.uniform(0, _LONGEST_PAUSE_SECONDS) for _ in range(2)]
        if case.tool == "count":
            return json.dumps({"key": case.key, "before": pauses[0], "seconds": pauses[1]})
        return json.dumps({"key": case.key, "before": pauses[0], "after": pauses[1]})

    def _metadata(self, replica: int, attempt: int) -> Any:
        now = time.time()
        context = UserContext(
            context_id=f"ctx-{secrets.token_hex(6)}",
            tenant_id="tenant-of-kills",
            user_id=self._user,
            session_id="session-1",
            scopes=frozenset({"tools.use"}),
            audiences=frozenset({"tool-dispatch"}),
            issue_time=now,
            expire_time=now + 290,
            request_id="request-1",
            thread_id="thread-1",
            run_id=self._run_id,
            agent="echo",
            attempt=attempt,
        )
        return self._system.peers[replica].metadata(raw(self._system.signer.sign(context)))

    async def _call(self, replica: int, metadata: Any, case: Case, arguments_json: str) -> str:
        stub: rpc.ToolServiceAsyncStub = rpc.ToolServiceStub(self._system.peers[replica].channel)
        request = pb.ExecuteToolRequest(step_id=case.key, tool=case.tool, arguments_json=arguments_json)
        try:
            await stub.ExecuteTool(request, metadata=metadata, timeout=30)
        except grpc.aio.AioRpcError as error:
            return _reason(from_rpc_error(error))
        return "ok"

    async def _persist(self, replica: int, metadata: Any, case: Case, arguments_json: str) -> str:
        """As agent-execution does: what may pass is asked for again."""
        deadline = time.monotonic() + _HEAL_SECONDS
        while True:
            answer = await self._call(replica, metadata, case, arguments_json)
            if answer != "LATER" or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.02)


def _reason(error: CarrelError) -> str:
    broken = error.kind is Kind.INTERNAL and not error.metadata
    passes = broken or error.reason == "UNAVAILABLE" or error.kind in (Kind.UNAVAILABLE, Kind.TIMEOUT)
    return "LATER" if passes else error.reason


async def play(system: Dispatchers, kills: int, seed: str) -> tuple[Counter[str], list[str]]:
    """So many kills; counts what happened, and tells what must not have."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(kills):
        chance = random.Random(f"{seed}-{number}")
        victim = number % len(system.peers)
        await system.serving(victim)
        for case in await Round(system, chance).play(victim, (victim + 1) % len(system.peers)):
            counts[_kind(case)] += 1
            if fault := case.fault():
                faults.append(f"kill {seed}-{number}: {case}: {fault}")
                print(faults[-1], flush=True)
    return counts, faults


def _kind(case: Case) -> str:
    if case.first == "ok":
        return f"{case.tool}: told before the kill"
    return f"{case.tool}: {'unknown' if case.second != 'ok' else 'finished'}, {case.effects} effects"


async def run(kills: int, seed: str, data_dir: Path) -> list[str]:
    async with dispatchers(data_dir) as system:
        begin = time.monotonic()
        counts, faults = await play(system, kills, seed)
        seconds = time.monotonic() - begin
    for what, count in sorted(counts.items()):
        print(f"{count:6}  {what}")
    print(f"{kills} kills, {counts.total()} calls, {seconds:.0f} s, {len(faults)} faults")
    return faults


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", default="1")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        faults = uvloop.run(run(asked.kills, asked.seed, Path(folder) / "data"))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
