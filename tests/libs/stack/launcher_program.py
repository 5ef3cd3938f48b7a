"""A launcher for tests that end it: `launcher_program.py FOLDER PORT_BASE [FAKE_SERVICE...]`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import structlog

from carrel_chassis.stack import Service, Stack, StackSettings, ended_by_signals, until_ended


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    folder, port_base, *names = sys.argv[1:]
    services = [Service(name, "tests.libs.stack.fake_service", name) for name in names]
    environment = {"PYTHONPATH": str(Path(__file__).parents[3])}
    settings = StackSettings(Path(folder), int(port_base), fast=True, service_environment=environment)
    with ended_by_signals():
        async with Stack(settings, services=services) as stack:
            await stack.ready()
            sys.stdout.write("up\n")
            sys.stdout.flush()
            await until_ended()


if __name__ == "__main__":
    asyncio.run(main())
