"""`python -m tests.chaos.runs --rounds N --seed S`: runs under kills and pauses of everything, and whether what was promised held."""

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

from tests.chaos.history import Fault
from tests.chaos.run_history import Standing, check, story
from tests.chaos.run_round import RunRound
from tests.chaos.run_stack import RunStack, run_stack

# The launcher remarks on every child that dies; here that is the work.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


async def play(running: RunStack, seed: str, blows: int, counts: Counter[str]) -> list[Fault]:
    """One round; counts what it did."""
    begin = time.monotonic()
    one = RunRound(running, seed, blows)
    try:
        faults = check(await one.play())
    except (TimeoutError, AssertionError, grpc.aio.AioRpcError, ExceptionGroup) as error:
        faults = [Fault("failed", f"round {seed}", repr(error)[:2000])]
    history = one.history
    for blow in one.plan.blows:
        counts[f"{'pauses' if blow.pause_seconds else 'kills'} of {blow.victim}"] += 1
    last = {change.run_id: change for change in history.changes if isinstance(change, Standing)}
    ends = Counter(standing.state for standing in last.values())
    attempts = sum(standing.epoch for standing in last.values())
    counts.update(rounds=1, blows=len(one.plan.blows), runs=len(history.accepted), faults=len(faults))
    counts.update(attempts=attempts, events=sum(map(len, history.logs.values())))
    counts.update(effects=len(history.effects), rejected=len(history.rejected), consents=len(history.consented))
    counts.update(f"of {each.busy_thread}" for each in last.values() if each.busy_thread != "ENQUEUE")
    told = ", ".join(f"{count} {state}" for state, count in sorted(ends.items()))
    print(
        f"round {seed}: {len(history.accepted)} runs ({told}), {attempts} attempts, "
        f"{len(history.effects)} effects, {len(one.plan.blows)} blows; {time.monotonic() - begin:.1f} s; "
        f"{len(faults) or 'no'} faults",
        flush=True,
    )
    for fault in faults[:10]:
        print(f"  {fault}", flush=True)
        if fault.where in last:
            print(f"    {'; '.join(story(history, fault.where))}", flush=True)
    return faults


async def run(rounds: int, seed: str, first: int, blows: int, folder: Path) -> Counter[str]:
    """So many rounds on one system; the seed of a round is `SEED-NUMBER`."""
    counts: Counter[str] = Counter()
    async with run_stack(folder) as running:
        for number in range(first, first + rounds):
            await play(running, f"{seed}-{number}", blows, counts)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--first", type=int, default=0, help="the number of the first round, to repeat one")
    parser.add_argument("--blows", type=int, default=12, help="how many a round has")
    parser.add_argument("--data", type=Path, help="a folder that is kept, with the logs of all processes")
    asked = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = asked.data or Path(folder) / "data"
        counts = uvloop.run(run(asked.rounds, asked.seed, asked.first, asked.blows, data))
    summary = ", ".join(f"{count} {what}" for what, count in counts.items() if what != "faults")
    print(f"{summary}; {time.monotonic() - begin:.0f} s; {counts['faults']} faults")
    sys.exit(1 if counts["faults"] else 0)


if __name__ == "__main__":
    main()
