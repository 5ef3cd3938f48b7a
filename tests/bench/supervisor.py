"""The supervisor's whole workflow on a trace of 19,366 rows without a model, from the request to the last event, and each agent's share."""

from __future__ import annotations

import csv
import io
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from carrel.api.events.v1.event_pb2 import Event
from carrel.client import Client
from carrel_agents.examples import generate
from carrel_chassis.stack import Stack, StackSettings
from tests.bench.report import Figure, percentile
from tests.support.system import REAL_TRACE, System

QUESTION = "What does it cost?"
ROWS = 19_366
WARM_RUNS = 12


async def measure() -> list[Figure]:
    content, what = _trace()
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data")) as stack:
            await stack.ready(60)
            system = System(stack)
            person = await system.person()
            async with Client(system.addresses["gateway"], person.token) as client:
                await client.upload_corpus("trace", content)
                first, _ = await _run(client)
                warm = [await _run(client) for _ in range(WARM_RUNS)]
            await system.close()
    shares: dict[str, list[float]] = defaultdict(list)
    for _, events in warm:
        for agent, seconds in _seconds_of_agents(events).items():
            shares[agent].append(seconds)
    return [
        Figure("supervisor/first run", first, "s", "< 2", conditions=what),
        Figure("supervisor/warm p50", percentile([seconds for seconds, _ in warm], 0.5), "s", "< 1", conditions=what),
        Figure("supervisor/warm max", max(seconds for seconds, _ in warm), "s", conditions=f"of {WARM_RUNS}"),
        *(
            Figure(
                f"supervisor/{agent}", percentile(seconds, 0.5), "s", conditions="warm p50, from its begin to its end"
            )
            for agent, seconds in shares.items()
        ),
    ]


async def _run(client: Client) -> tuple[float, list[Event]]:
    """How long the user waits for the report, and the events that came."""
    begin = time.perf_counter()
    run = await client.start_run("supervisor", {"question": QUESTION, "corpus": "trace"})
    events = [event async for event in client.watch_run(run.run_id)]
    seconds = time.perf_counter() - begin
    assert events[-1].type == "agent_completed", events[-1]
    return seconds, events


def _seconds_of_agents(events: list[Event]) -> dict[str, float]:
    """From the begin of each agent to its end, as the events say; all but the supervisor itself, which spans them."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.type in ("agent_started", "agent_completed") and event.agent != "supervisor":
            times[event.agent].append(event.create_time.ToNanoseconds() / 1e9)
    return {agent: ends[-1] - ends[0] for agent, ends in times.items()}


def _trace() -> tuple[bytes, str]:
    """The recorded trace, or where it is absent a generated one of as many rows."""
    if REAL_TRACE.exists():
        return REAL_TRACE.read_bytes(), "the recorded trace"
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(generate.COLUMNS)
    writer.writerows(generate.rows(count=ROWS))
    return text.getvalue().encode(), f"a generated trace of {ROWS:,} rows"
