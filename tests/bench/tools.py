"""Tool calls through dispatch: policy, limits, ledger and audit around a tool in the same process; a query over DuckDB itself.

The query needs a usage trace: `make bench ONLY=tools DATA=FILE`, a CSV file with the columns ContextTokens and GeneratedTokens. It is
repeated to 2,000,000 rows.
"""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb

from carrel.api.tools.v1 import policy_service_pb2, policy_service_pb2_grpc
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel.api.tools.v1 import tool_service_pb2_grpc as rpc
from carrel_chassis.identity import NO_LIMITS, ResourceLimits, UserContext
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.signing import ContextSigner
from carrel_chassis.stack import Stack, StackSettings
from tests.bench.load import durations, rate
from tests.bench.report import Figure, percentile
from tests.support.forge import genuine_signer, raw
from tests.support.system import ROOT, System

ROWS = 2_000_000
CALLS = 1000
AT_ONCE = 16
_SECONDS = 5.0
_QUERY = (
    "SELECT count(*), sum(CAST(ContextTokens AS BIGINT)), sum(CAST(GeneratedTokens AS BIGINT)), "
    "max(CAST(ContextTokens AS BIGINT)) FROM {table}"
)


class Caller:
    """One user in one run, calling tools as agent-execution does."""

    def __init__(self, peer: Peer, signer: ContextSigner, limits: ResourceLimits = NO_LIMITS) -> None:
        self._stub: rpc.ToolServiceAsyncStub = rpc.ToolServiceStub(peer.channel)
        self._steps = itertools.count()
        now = time.time()
        self.context = UserContext(
            context_id="ctx-of-a-bench",
            tenant_id=f"tenant-{secrets.token_hex(6)}",
            user_id=f"user-{secrets.token_hex(6)}",
            session_id="session-1",
            scopes=frozenset({"tools.use", "corpora.read", "corpora.write", "admin.tools"}),
            audiences=frozenset({"tool-dispatch"}),
            issue_time=now,
            expire_time=now + 290,
            request_id="request-1",
            thread_id="thread-1",
            run_id=f"run-{secrets.token_hex(6)}",
            agent="echo",
            attempt=1,
            limits=limits,
        )
        self.signed = raw(signer.sign(self.context))
        self._metadata = peer.metadata(self.signed)

    async def call(self, tool: str, arguments_json: str) -> pb.ExecuteToolResponse:
        """A new step."""
        request = pb.ExecuteToolRequest(step_id=str(next(self._steps)), tool=tool, arguments_json=arguments_json)
        return await self._stub.ExecuteTool(request, metadata=self._metadata, timeout=120)


@asynccontextmanager
async def system() -> AsyncIterator[System]:
    """The context service and tool-dispatch, fsync on."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "PYTHONPATH": str(ROOT),
            "CARREL_TOOL_MODULES": "tests.support.tools",
            "CARREL_TEST_EFFECTS": str(Path(folder) / "effects"),
            "CARREL_USER_TOOL_CALLS": str(2 * AT_ONCE),
        }
        settings = StackSettings(Path(folder) / "data", only=("context", "tools"), service_environment=environment)
        async with Stack(settings) as stack:
            await stack.ready(60)
            running = System(stack)
            yield running
            await running.close()


async def measure() -> list[Figure]:
    async with system() as running:
        return [*await _calls(running), *await _queries(running)]


async def _calls(running: System) -> list[Figure]:
    peer, signer = running.peer("tool-dispatch", "agent-execution"), await genuine_signer(running)
    conditions = "over gRPC, with policy, ledger and audit; fsync on, engines and load on the same cores"
    figures = []
    for name, tool, limits in (
        ("tools/echo", "echo", NO_LIMITS),
        ("tools/echo limited", "echo", ResourceLimits(tool_calls_per_minute=1_000_000)),
        ("tools/effect", "count", NO_LIMITS),
    ):
        alone = Caller(peer, signer, limits)
        arguments = json.dumps({"text": "hello"} if tool == "echo" else {"key": "bench"})
        await durations(lambda: alone.call(tool, arguments), count=200)  # noqa: B023  # awaited here
        taken = await durations(lambda: alone.call(tool, arguments), count=CALLS)  # noqa: B023
        goal = "< 4" if tool == "echo" else ""
        figures += [
            Figure(f"{name} p50", percentile(taken, 0.5) * 1e3, "ms", goal, conditions=conditions),
            Figure(f"{name} p99", percentile(taken, 0.99) * 1e3, "ms", conditions=conditions),
        ]
        users = itertools.cycle([Caller(peer, signer, limits) for _ in range(AT_ONCE)])
        speed = await rate(lambda: next(users).call(tool, arguments), at_once=AT_ONCE, seconds=_SECONDS)  # noqa: B023
        goal = "> 500" if tool == "echo" else ""
        figures.append(Figure(f"{name} rate", speed, "calls/s", goal, conditions=f"{AT_ONCE} users, one process"))
    figures.append(await _with_rules(running, peer, signer, 200))
    return figures


async def _with_rules(running: System, peer: Peer, signer: ContextSigner, rules: int) -> Figure:
    """The same under a policy of so many rules, of which the last allows the call."""
    caller = Caller(peer, signer)
    stub: policy_service_pb2_grpc.ToolPolicyServiceAsyncStub = policy_service_pb2_grpc.ToolPolicyServiceStub(
        peer.channel
    )
    deny, allow = policy_service_pb2.TOOL_EFFECT_DENY, policy_service_pb2.TOOL_EFFECT_ALLOW
    request = policy_service_pb2.SetToolPolicyRequest(
        rules=[
            *(policy_service_pb2.ToolRule(rule_id=f"r{n}", effect=deny, tools=[f"x{n}*"]) for n in range(rules - 1)),
            policy_service_pb2.ToolRule(rule_id="last", effect=allow, tools=["*"]),
        ]
    )
    await stub.SetToolPolicy(request, metadata=(("user-context-bin", caller.signed),))
    taken = await durations(lambda: caller.call("echo", '{"text": "hello"}'), count=CALLS)
    return Figure("tools/echo p50 under 200 rules", percentile(taken, 0.5) * 1e3, "ms", conditions="the last one fits")


async def _queries(running: System) -> list[Figure]:
    if not (data := os.environ.get("DATA")):
        print("tools: no DATA=FILE, queries are not measured", file=sys.stderr)
        return []
    peer, signer = running.peer("tool-dispatch", "agent-execution"), await genuine_signer(running)
    caller = Caller(peer, signer)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.csv"
        await asyncio.to_thread(_repeat, Path(data), trace)
        await _upload(peer, caller, "trace", trace)
        query = json.dumps({"sql": _QUERY.format(table="trace")})
        through = await durations(lambda: caller.call("sql_query", query), count=5)
        bare = [await asyncio.to_thread(_bare, trace) for _ in range(5)]
        value, baseline = percentile(through, 0.5), percentile(bare, 0.5)
        figures.append(
            Figure(
                "tools/sql_query over DuckDB",
                value * 1e3,
                "ms",
                baseline=baseline * 1e3,
                ratio=value / baseline,
                conditions=f"{ROWS:,} rows of CSV, {trace.stat().st_size / 1e6:.0f} MB; DuckDB alone with as many threads as it likes",
            )
        )
    return figures


def _repeat(source: Path, target: Path) -> None:
    with source.open(newline="") as file, target.open("w", newline="") as out:
        header, *rows = csv.reader(file)
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows(itertools.islice(itertools.cycle(rows), ROWS))


def _bare(path: Path) -> float:
    begin = time.perf_counter()
    duckdb.sql(_QUERY.format(table=f"read_csv('{path}', all_varchar = true)")).fetchall()
    return time.perf_counter() - begin


async def _upload(peer: Peer, caller: Caller, name: str, path: Path) -> None:
    def messages() -> Iterator[pb.UploadCorpusRequest]:
        yield pb.UploadCorpusRequest(header=pb.UploadHeader(name=name, media_type="text/csv"))
        with path.open("rb") as file:
            while chunk := file.read(1024 * 1024):
                yield pb.UploadCorpusRequest(chunk=chunk)

    stub: rpc.CorpusServiceAsyncStub = rpc.CorpusServiceStub(peer.channel)
    metadata: Any = (("user-context-bin", caller.signed),)
    await stub.UploadCorpus(messages(), metadata=metadata, timeout=300)
