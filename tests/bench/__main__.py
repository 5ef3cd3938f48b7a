"""`python -m tests.bench [--only NAME]`: measures, prints a table, writes build/bench.json."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

import uvloop

from carrel_chassis.logs import configure_logs
from tests.bench.report import OUTPUT, Figure, print_table, write_json

# The generator starts servers while it has channels open; gRPC would remark on each of them.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

PARTS = (
    "context",
    "chain",
    "issue",
    "run",
    "hops",
    "claims",
    "engine",
    "noisy",
    "recovery",
    "memory",
    "agents",
    "supervisor",
    "schedules",
    "revocation",
    "tools",
    "sandbox",
    "events",
    "events_idle",
    "events_scale",
    "gateway",
    "shedding",
)
"""The modules beside this one; each has `async def measure() -> list[Figure]`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    only = parser.parse_args().only
    configure_logs("bench", "WARNING")
    figures: list[Figure] = []
    for part in [only] if only else PARTS:
        print(f"measuring {part} ...", file=sys.stderr, flush=True)
        figures += uvloop.run(import_module(f"tests.bench.{part}").measure())
    write_json(figures)
    print_table(figures)
    print(f"written to {OUTPUT.relative_to(OUTPUT.parents[1])}")


if __name__ == "__main__":
    main()
