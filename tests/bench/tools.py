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
import grpc

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

    async def stream(self, tool: str, arguments_json: str) -> None:
        """The same, with what the tool tells meanwhile."""
        request = pb.ExecuteToolRequest(step_id=str(next(self._steps)), tool=tool, arguments_json=arguments_json)
        stream = pb.ExecuteToolStreamRequest(call=request)
        async for _ in self._stub.ExecuteToolStream(stream, metadata=self._metadata, timeout=120):
            pass

    async def refused(self, tool: str) -> None:
        """A tool that does not exist for this user."""
        try:
            await self.call(tool, "{}")
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
        else:
            raise AssertionError(f"{tool} exists")


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
    return [*figures, *await _streamed(peer, signer), *await _hidden(peer, signer)]


async def _streamed(peer: Peer, signer: ContextSigner) -> list[Figure]:
    """A tool that tells nothing, called as a stream and as a unary call in turn."""
    caller, arguments = Caller(peer, signer), json.dumps({"text": "hello"})
    taken: dict[str, list[float]] = {"unary": [], "stream": []}
    for _ in range(5):
        taken["unary"] += await durations(lambda: caller.call("echo", arguments), count=CALLS // 5)
        taken["stream"] += await durations(lambda: caller.stream("echo", arguments), count=CALLS // 5)
    users = itertools.cycle([Caller(peer, signer) for _ in range(AT_ONCE)])
    unary = await rate(lambda: next(users).call("echo", arguments), at_once=AT_ONCE, seconds=_SECONDS)
    stream = await rate(lambda: next(users).stream("echo", arguments), at_once=AT_ONCE, seconds=_SECONDS)
    value, baseline = (percentile(taken[kind], 0.5) * 1e3 for kind in ("stream", "unary"))
    conditions = "no progress is told; the baseline is the unary call"
    return [
        Figure("tools/echo stream p50", value, "ms", baseline=baseline, ratio=value / baseline, conditions=conditions),
        Figure(
            "tools/echo stream rate", stream, "calls/s", baseline=unary, ratio=stream / unary, conditions=conditions
        ),
    ]


async def _hidden(peer: Peer, signer: ContextSigner) -> list[Figure]:
    """How long it takes to be told that there is no such tool: of one that others have, and of one that nobody has."""
    caller = Caller(peer, signer)
    taken: dict[str, list[float]] = {"corpus_admin": [], "corpus_absent": []}
    for _ in range(10):
        for tool, times in taken.items():
            times += await durations(lambda: caller.refused(tool), count=CALLS // 10)  # noqa: B023  # awaited here
    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        hidden, absent = (percentile(times, share) * 1e3 for times in taken.values())
        figures.append(
            Figure(
                f"tools/hidden {name}",
                hidden,
                "ms",
                baseline=absent,
                ratio=hidden / absent,
                conditions="the baseline is a tool that does not exist; in turn",
            )
        )
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
        packed = Path(folder) / "trace.parquet"
        duckdb.sql(f"COPY (SELECT * FROM read_csv('{trace}', all_varchar = true)) TO '{packed}'")
        for path, media_type, table in (
            (trace, "text/csv", f"read_csv('{trace}', all_varchar = true)"),
            (packed, "application/vnd.apache.parquet", f"read_parquet('{packed}')"),
        ):
            name = path.suffix[1:]
            await _upload(peer, caller, name, path, media_type)
            query = json.dumps({"sql": _QUERY.format(table=name)})
            through, bare = [], []
            for _ in range(7):
                through += await durations(lambda: caller.call("sql_query", query), count=1)  # noqa: B023  # awaited here
                bare.append(await asyncio.to_thread(_bare, table))
            value, baseline = percentile(through, 0.5), percentile(bare, 0.5)
            size = path.stat().st_size / 1e6
            figures.append(
                Figure(
                    f"tools/sql_query over DuckDB, {name}",
                    value * 1e3,
                    "ms",
                    baseline=baseline * 1e3,
                    ratio=value / baseline,
                    conditions=f"{ROWS:,} rows, {size:.0f} MB; DuckDB alone, with as many threads as it likes",
                )
            )
    return figures


def _repeat(source: Path, target: Path) -> None:
    with source.open(newline="") as file, target.open("w", newline="") as out:
        header, *rows = csv.reader(file)
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows(itertools.islice(itertools.cycle(rows), ROWS))


def _bare(table: str) -> float:
    begin = time.perf_counter()
    duckdb.sql(_QUERY.format(table=table)).fetchall()
    return time.perf_counter() - begin


async def _upload(peer: Peer, caller: Caller, name: str, path: Path, media_type: str) -> None:
    def messages() -> Iterator[pb.UploadCorpusRequest]:
        yield pb.UploadCorpusRequest(header=pb.UploadHeader(name=name, media_type=media_type))
        with path.open("rb") as file:
            while chunk := file.read(1024 * 1024):
                yield pb.UploadCorpusRequest(chunk=chunk)

    stub: rpc.CorpusServiceAsyncStub = rpc.CorpusServiceStub(peer.channel)
    metadata: Any = (("user-context-bin", caller.signed),)
    await stub.UploadCorpus(messages(), metadata=metadata, timeout=300)
