"""What each hop of a run costs: the calls that one run makes among the services, from the spans that the services send.

A local collector takes the spans as any OpenTelemetry collector would. A hop's own time is its duration without the calls that it makes
itself; the way to the next service and back counts with the caller.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from carrel_chassis.stack import Stack, StackSettings
from tests.bench.report import Figure, percentile
from tests.bench.runner import runners
from tests.support.system import System

RUNS = 300
_FIRST = "carrel.api.gateway.v1.GatewayService/StartRun"


@dataclass
class Collector(rpc.TraceServiceServicer):
    """Keeps the spans of each trace."""

    traces: dict[bytes, list[Span]] = field(default_factory=lambda: defaultdict(list))

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.traces[span.trace_id].append(span)
        return pb.ExportTraceServiceResponse()

    def runs(self) -> list[list[Span]]:
        """The spans of each run, its first call at the start."""
        whole = (sorted(spans, key=lambda span: span.start_time_unix_nano) for spans in self.traces.values())
        return [spans for spans in whole if spans[0].name == _FIRST]


@asynccontextmanager
async def _collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector, server = Collector(), grpc.aio.server()
    rpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(1)


async def measure() -> list[Figure]:
    """One user, one run at a time; the services stop before their spans are counted, and so have sent them all."""
    async with _collecting() as (collector, address):
        with tempfile.TemporaryDirectory() as folder:
            settings = StackSettings(Path(folder) / "data", service_environment={"CARREL_OTLP_ENDPOINT": address})
            async with Stack(settings) as stack:
                await stack.ready(60)
                system = System(stack)
                try:
                    async with runners(system, 1) as [user]:
                        taken = [await user.run() for _ in range(RUNS)]
                finally:
                    await system.close()
        return [
            Figure("hops/run", percentile(taken, 0.5) * 1e3, "ms", conditions="p50 idle, with spans"),
            *_figures(collector.runs()[-RUNS:]),
        ]


def _figures(runs: Iterable[list[Span]]) -> list[Figure]:
    """For each call, in the order of a run: when it begins, how long it takes, and what of that is its own."""
    begins, lasts, own = (defaultdict[str, list[float]](list) for _ in range(3))
    for spans in runs:
        seen: dict[str, int] = defaultdict(int)
        for span in spans:
            seen[span.name] += 1
            name = span.name if seen[span.name] == 1 else f"{span.name} ({seen[span.name]})"
            begins[name].append((span.start_time_unix_nano - spans[0].start_time_unix_nano) / 1e6)
            lasts[name].append(_nanoseconds(span) / 1e6)
            own[name].append((_nanoseconds(span) - sum(_within(span, each) for each in spans)) / 1e6)
    return [
        Figure(
            f"hops/{name.removeprefix('carrel.api.')}",
            percentile(lasts[name], 0.5),
            "ms",
            conditions=f"begins at {percentile(begins[name], 0.5):.1f} ms; {percentile(own[name], 0.5):.1f} ms of its own; "
            f"{len(lasts[name]) / RUNS:.2f} times a run",
        )
        for name in sorted(begins, key=lambda name: percentile(begins[name], 0.5))
    ]


def _within(span: Span, other: Span) -> int:
    """How long a call that the span has made went on while the span did: what a run does goes on after its start was answered."""
    if other.parent_span_id != span.span_id:
        return 0
    return max(0, min(span.end_time_unix_nano, other.end_time_unix_nano) - other.start_time_unix_nano)


def _nanoseconds(span: Span) -> int:
    return int(span.end_time_unix_nano - span.start_time_unix_nano)
