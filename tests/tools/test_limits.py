"""What a user may use up: sandboxed CPU time and bytes in a minute."""

from __future__ import annotations

import grpc
import pytest

from carrel_chassis.errors import CarrelError
from carrel_tools.limits import Meter
from tests.support.expect import refused
from tests.tools.conftest import Desk

Code = grpc.StatusCode
ADA, EVE = ("acme", "ada"), ("acme", "eve")


def test_a_minute_that_is_used_up_is_over_after_a_minute_and_is_each_users_own():
    now = 1000.0
    meter = Meter("tool_bytes", 10, lambda: now)
    meter.add(ADA, 9)
    meter.check(ADA)
    meter.add(ADA, 5)
    with pytest.raises(CarrelError) as refusal:
        meter.check(ADA)
    assert refusal.value.metadata == {"limit": "tool_bytes", "value": "10"} and refusal.value.retry_seconds == 60
    meter.check(EVE)
    now += 60
    meter.check(ADA)
    meter.add(ADA, 1)
    meter.check(ADA)


def test_without_a_limit_nothing_is_refused():
    meter = Meter("tool_bytes", 0)
    meter.add(ADA, 1e9)
    meter.check(ADA)


async def test_bytes_are_counted_in_and_out(desk: Desk, other: Desk, own_process):
    own = (await own_process(USER_TOOL_BYTES="20000")).peer
    mine, theirs = Desk(desk.system, desk.person, own), Desk(desk.system, other.person, own)
    await mine.execute("echo", "1", text="x" * 12_000)
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await mine.execute("echo", "2", text="x")
    assert refusal.error.metadata == {"limit": "tool_bytes", "value": "20000"}
    await theirs.execute("echo", text="not held up")


async def test_the_cpu_time_of_sandboxed_work_is_counted(desk: Desk, own_process):
    own = Desk(desk.system, desk.person, (await own_process(USER_TOOL_CPU_SECONDS="0.05")).peer)
    await own.execute("echo", "1", text="costs the sandbox nothing")
    await own.execute("sql_query", "2", sql="SELECT sum(hash(range)) FROM range(20000000)")
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await own.execute("echo", "3", text="x")
    assert refusal.error.metadata == {"limit": "tool_cpu_seconds", "value": "0.05"}
