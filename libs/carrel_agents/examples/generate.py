"""Writes the example trace, the same bytes every time: `python -m carrel_agents.examples.generate [path]`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

SEED = 20_250
ROWS = 500
START = datetime(2025, 1, 15, 9)
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens", "Model", "LatencyMs")
BURST = range(200, 280)
"""The rows that come six times as fast as the others, so that there is a peak to find."""


def rows(seed: int = SEED, count: int = ROWS) -> Iterator[tuple[str, int, int, str, int]]:
    """Requests of about half an hour: mostly middling prompts, a few very long, a third on the smaller model."""
    random = Random(seed)
    now = START
    for number in range(count):
        now += timedelta(seconds=random.expovariate(1.8 if number in BURST else 0.3))
        prompt = min(16_000, 1 + int(random.lognormvariate(6.6, 1.1)))
        answer = min(2_000, 1 + int(random.lognormvariate(4.9, 0.8)))
        small = random.random() < 1 / 3
        per_token = 9 if small else 24
        latency = int((150 + prompt * 0.05 + answer * per_token) * random.uniform(0.8, 1.6))
        model = "example-small" if small else "example-large"
        yield now.isoformat(timespec="milliseconds"), prompt, answer, model, latency


def write(path: Path) -> None:
    """Writes the trace to `path`, over what is there."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows())


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("example_trace.csv"))
