"""`python -m tests.bench.ghz`: the load tool that operators use, against a running system of our own, with real contexts.

ghz is a Go program and nothing else here needs Go: where it is missing, this says how to get it and ends well.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from carrel import Client
from carrel_chassis.logs import configure_logs
from carrel_chassis.stack import Stack, StackSettings
from carrel_chassis.stack.development import as_metadata_value
from tests.bench.report import Figure, print_table, write_json
from tests.support.system import ROOT, Person, System

SCENARIOS = Path(__file__).parent / "scenarios"
PACKAGE = "github.com/bojand/ghz/cmd/ghz@v0.121.0"
BIN = ROOT / "build" / "bin"


def find_ghz() -> str | None:
    """The program: on the PATH, installed by us before, or installed now where Go is present."""
    if found := shutil.which("ghz") or shutil.which("ghz", path=str(BIN)):
        return found
    if not shutil.which("go"):
        return None
    print("installing ghz with go install ...", file=sys.stderr)
    subprocess.run(["go", "install", PACKAGE], env={**os.environ, "GOBIN": str(BIN)}, check=True)
    return shutil.which("ghz", path=str(BIN))


def command(ghz: str, scenario: Path, address: str, metadata: dict[str, str]) -> list[str]:
    """One scenario file as a command line; what is particular to this system is filled in here."""
    return [
        ghz, "--config", str(scenario), "--insecure", "--import-paths", str(ROOT / "protos"),
        "--metadata", json.dumps(metadata), "--format", "json", address,
    ]  # fmt: skip


def read_report(scenario: Path, text: str) -> list[Figure]:
    """The figures of ghz's own report."""
    report = json.loads(text)
    codes = report["statusCodeDistribution"]
    latencies = {entry["percentage"]: entry["latency"] / 1e6 for entry in report.get("latencyDistribution") or []}
    conditions = f"{report['count']} calls, codes {codes}"
    name = f"ghz/{scenario.stem}"
    return [
        Figure(name, report["rps"], "calls/s", conditions=conditions),
        Figure(f"{name} p50", latencies.get(50, 0.0), "ms", conditions=conditions),
        Figure(f"{name} p99", latencies.get(99, 0.0), "ms", conditions=conditions),
    ]


async def give_history(system: System, person: Person) -> None:
    """Something to stream: the events of a hundred runs."""
    async with Client(system.addresses["gateway"], person.token) as client:
        for run in await asyncio.gather(*(client.start_run("echo", {"text": "hello"}) for _ in range(100))):
            async for _ in client.watch_run(run.run_id):
                pass


async def measure(ghz: str) -> list[Figure]:
    """Every scenario against a fresh system. A scenario names its service in its file name: `<address>-<what>.json`."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(StackSettings(Path(folder) / "data")) as stack:
            await stack.ready(60)
            system = System(stack)
            for scenario in sorted(SCENARIOS.glob("*.json")):
                service = scenario.stem.partition("-")[0]
                person = await system.person()  # a user each: one's queue has room for 1,000 runs
                if service == "events":
                    await give_history(system, person)
                metadata = {"user-context-bin": as_metadata_value(person.signed_context)}
                if service == "gateway":
                    metadata = {"authorization": f"Bearer {person.token}"}
                print(f"ghz {scenario.stem} ...", file=sys.stderr)
                process = await asyncio.create_subprocess_exec(
                    *command(ghz, scenario, system.addresses[service], metadata), stdout=asyncio.subprocess.PIPE
                )
                output, _ = await process.communicate()
                figures += read_report(scenario, output.decode())
            await system.close()
    return figures


def main() -> None:
    configure_logs("bench", "WARNING")
    ghz = find_ghz()
    if ghz is None:
        print(f"ghz is not here. Install Go, then: go install {PACKAGE}; or put a ghz binary on the PATH.")
        return
    figures = asyncio.run(measure(ghz))
    write_json(figures)
    print_table(figures)


if __name__ == "__main__":
    main()
