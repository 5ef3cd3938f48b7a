"""What the chain of layers costs a unary call: the same message through a bare grpc.aio server and through ours, in turns."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from carrel.api.events.v1 import event_pb2, event_service_pb2_grpc
from carrel.api.events.v1 import event_service_pb2 as pb
from carrel_chassis.identity import UserContext
from carrel_chassis.logs import configure_logs
from carrel_chassis.rpc import server as rpc_server
from carrel_chassis.rpc.channel import open_channel
from carrel_chassis.settings import ServiceSettings
from carrel_chassis.signing import ContextSigner
from carrel_chassis.telemetry import configure_telemetry
from carrel_chassis.trust import Trust
from tests.bench.load import durations, rate
from tests.bench.report import Figure, percentile

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VARIANTS = ("bare", "none", "AccessLog", "Telemetry", "ErrorMask", "Deadline", "Identity", "all")
"""A bare server; our server with no layer, with one alone, and with all."""
ROUNDS = 5
SECONDS = 1.5
LABELS = {"none": "our server without layers", "all": "with all layers"}


class Servicer(event_service_pb2_grpc.EventServiceServicer):
    """Answers at once: what is measured is all that is around it."""

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> pb.ListEventsResponse:
        return pb.ListEventsResponse(position=event_pb2.Cursor(epoch=1, offset=request.page_size))


class Keys:
    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        return KEY.public_key()


async def serve(variant: str, folder: Path) -> None:
    """The server's process: prints its port, serves until its standard input ends."""
    if variant == "bare":
        bare = grpc.aio.server()
        event_service_pb2_grpc.add_EventServiceServicer_to_server(Servicer(), bare)
        port = bare.add_insecure_port("127.0.0.1:0")
        await bare.start()
    else:
        settings = _settings(folder)
        configure_telemetry("bench", settings)
        chain = rpc_server.chain
        if variant != "all":
            rpc_server.chain = lambda *a: [layer for layer in chain(*a) if type(layer).__name__ == variant]
        ours = rpc_server.RpcServer(settings, Trust(settings, "event-stream").authenticator(Keys()))
        ours.register(event_service_pb2_grpc.add_EventServiceServicer_to_server, Servicer())
        await ours.start()
        port = ours.port
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _settings(folder: Path) -> ServiceSettings:
    return ServiceSettings(
        listen="127.0.0.1:0",
        service_key_file=folder / "service.key",
        service_trust_file=folder / "trust.json",
        metrics_listen="127.0.0.1:0",
    )


def _metadata() -> tuple[tuple[str, bytes], ...]:
    now = time.time()
    user = UserContext(
        context_id="ctx-1",
        tenant_id="acme",
        user_id="ada",
        session_id="session-1",
        scopes=frozenset({"events.read", "runs.read", "runs.start"}),
        audiences=frozenset({"event-stream", "agent-execution"}),
        issue_time=now,
        expire_time=now + 3600,
        request_id="request-1",
    )
    return (("user-context-bin", ContextSigner("key-1", KEY).sign(user).SerializeToString(deterministic=True)),)


@asynccontextmanager
async def _server(
    variant: str, folder: Path
) -> AsyncIterator[tuple[event_service_pb2_grpc.EventServiceAsyncStub, psutil.Process]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.chain", variant, str(folder),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=(folder / "log").open("ab"),
    )  # fmt: skip
    assert process.stdout and process.stdin
    channel = open_channel(f"127.0.0.1:{int(await process.stdout.readline())}")
    try:
        yield event_service_pb2_grpc.EventServiceStub(channel), psutil.Process(process.pid)
    finally:
        await channel.close()
        process.stdin.close()
        await process.wait()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@dataclass
class Rounds:
    """What the rounds of one variant gave."""

    rates: list[float] = field(default_factory=list)
    p50s: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


async def _round(variant: str, folder: Path, metadata: Any, into: Rounds) -> None:
    async with _server(variant, folder) as (stub, process):

        async def call() -> object:
            return await stub.ListEvents(pb.ListEventsRequest(page_size=7), metadata=metadata, timeout=10)

        await durations(call, count=50)
        into.p50s.append(percentile(await durations(call, count=300), 0.5) * 1e3)
        before = _cpu_seconds(process)
        calls_per_second = await rate(call, at_once=32, seconds=SECONDS)
        into.rates.append(calls_per_second)
        into.cpu.append((_cpu_seconds(process) - before) / (calls_per_second * SECONDS) * 1e6)


async def measure() -> list[Figure]:
    """Rounds in turn, so that a machine that changes its speed changes it for all."""
    results = {variant: Rounds() for variant in VARIANTS}
    metadata = _metadata()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "service.key").write_text(base64.b64encode(bytes(range(32))).decode())
        (folder / "trust.json").write_text(json.dumps({}))
        for _ in range(ROUNDS):
            for variant in VARIANTS:
                await _round(variant, folder, metadata, results[variant])
    bare, ours = results["bare"], results["all"]
    median = statistics.median
    ratio = median(a / b for a, b in zip(ours.rates, bare.rates, strict=True))
    conditions = f"32 at once, {ROUNDS} rounds in turn, client on the same cores"
    figures = [
        Figure("chain/unary", median(ours.rates), "calls/s", "ratio > 0.7", median(bare.rates), ratio, conditions),
        Figure("chain/unary p50", median(ours.p50s), "ms", "", median(bare.p50s), None, "one at a time"),
    ]
    for variant in VARIANTS[1:]:
        cpu = median(results[variant].cpu)
        figures.append(
            Figure(
                f"chain/cpu {variant}",
                cpu,
                "us/call",
                "",
                median(bare.cpu),
                cpu / median(bare.cpu),
                LABELS.get(variant, "with this layer alone"),
            )
        )
    return figures


if __name__ == "__main__":
    configure_logs("bench", "INFO")
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2])))
