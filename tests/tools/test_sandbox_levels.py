"""What becomes of tools on machines that shut in less than they need."""

from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from carrel_chassis.sandbox.level import Level, probe
from tests.support.expect import refused
from tests.tools.conftest import CSV, Code, Desk

SERVING = health_pb2.HealthCheckResponse.SERVING


async def health(desk: Desk, part: str) -> bool:
    stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(desk.peer.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=part), timeout=10)
    return bool(answer.status == SERVING)


async def test_a_tool_is_refused_below_its_level_and_others_go_on(desk: Desk, own_process):
    own = Desk(desk.system, desk.person, (await own_process(SANDBOX_LEVEL="1")).peer)
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await own.result("python", code="1")
    assert refusal.error.metadata["tool_reason"] == "SANDBOX_TOO_WEAK"
    assert "needs level 2" in refusal.error.message and "level 1" in refusal.error.message
    await own.upload("sales", CSV)
    assert (await own.result("sql_query", sql="SELECT count(*) FROM sales"))["rows"] == [[4]]
    assert await health(own, "sandbox.1") and not await health(own, "sandbox.2")


async def test_health_says_how_far_the_machine_shuts_in(desk: Desk):
    standing = probe()
    for level in Level:
        assert await health(desk, f"sandbox.{int(level)}") is (level <= standing.level)


@pytest.mark.parametrize("most", list(Level))
def test_no_level_is_used_beyond_what_the_operator_set(most: Level):
    assert probe(most).level <= most
