"""`python -m tests.chaos.events --rounds N --seed S`: the event stream under kills, pauses and losses, and whether its promise held."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
import structlog
import uvloop

from tests.chaos.history import Fault, check
from tests.chaos.replicas import Replicas, replicas
from tests.chaos.round import Round

# The launcher remarks on every child that dies; here that is the work.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


async def play(system: Replicas, seed: str, counts: Counter[str]) -> list[Fault]:
    """One round; counts what it did."""
    begin = time.monotonic()
    one = Round(system, seed)
    try:
        history = await one.play()
        faults = check(history)
    except (TimeoutError, grpc.aio.AioRpcError, ExceptionGroup) as error:
        history, faults = one.history, [Fault("failed", f"round {seed}", repr(error)[:500])]
    events = sum(len(log) for log in history.logs.values())
    received = sum(len(reading.received) for reading in history.readings)
    seconds = time.monotonic() - begin
    for blow in one.plan.blows:
        counts["pauses" if blow.pause_seconds else f"kills of {blow.victim}"] += 1
    counts.update(rounds=1, events=events, deliveries=received, streams=len(history.readings), faults=len(faults))
    blows = ", ".join(map(str, one.plan.blows)) or "no blow"
    print(
        f"round {seed}: {events} events, {received} deliveries on {len(history.readings)} streams, "
        f"{one.plan.lost_share:.0%} lost, {blows}; {seconds:.1f} s; {len(faults) or 'no'} faults",
        flush=True,
    )
    for fault in faults[:10]:
        print(f"  {fault}", flush=True)
    return faults


async def run(rounds: int, seed: str, first: int, folder: Path) -> Counter[str]:
    """So many rounds on one system; the seed of a round is `SEED-NUMBER`."""
    counts: Counter[str] = Counter()
    async with replicas(folder) as system:
        for number in range(first, first + rounds):
            await play(system, f"{seed}-{number}", counts)
        counts["copies lost"] = system.nats.lost
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--first", type=int, default=0, help="the number of the first round, to repeat one")
    parser.add_argument("--data", type=Path, help="a folder that is kept, with the logs of all processes")
    asked = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = uvloop.run(run(asked.rounds, asked.seed, asked.first, asked.data or Path(folder) / "data"))
    summary = ", ".join(f"{count} {what}" for what, count in counts.items() if what != "faults")
    print(f"{summary}; {time.monotonic() - begin:.0f} s; {counts['faults']} faults")
    sys.exit(1 if counts["faults"] else 0)


if __name__ == "__main__":
    main()
