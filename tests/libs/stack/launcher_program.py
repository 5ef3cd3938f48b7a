"""A launcher of the engines alone, for tests that end it: `launcher_program.py FOLDER`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import structlog

from carrel_chassis.stack import Stack, StackSettings


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    async with Stack(StackSettings(Path(sys.argv[1]), fast=True, only=())) as stack:
        sys.stdout.write("up\n")
        sys.stdout.flush()
        await stack.until_signal()


if __name__ == "__main__":
    asyncio.run(main())
