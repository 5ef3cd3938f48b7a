"""The end of a service process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_SERVICE = """
import asyncio, sys
from carrel_chassis.process import run_service
from carrel_chassis.settings import ServiceSettings

async def stubborn():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

async def serve(settings, stop):
    task = asyncio.create_task(stubborn() if sys.argv[1] == "stubborn" else asyncio.sleep(3600))
    print("serving", flush=True)
    await stop.wait()
    print("closed", flush=True)

run_service("test", ServiceSettings, serve)
"""


@pytest.mark.parametrize("what", ["stubborn", "obedient"])
def test_a_service_ends_at_sigterm_whatever_it_has_left_at_work(what: str) -> None:
    environment = {"CARREL_LISTEN": "127.0.0.1:0", "CARREL_SERVICE_KEY_FILE": "x", "CARREL_SERVICE_TRUST_FILE": "x"}
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVICE, what],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "serving\n"
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (0, "closed\n")
    assert "service.stopped" in errors  # the last line of the log is written, too
    assert ("tasks_left" in errors) == (what == "stubborn")
