"""What a user may use up: sandboxed CPU time and bytes in a minute, and memory at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import grpc
import pytest

from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_tools.limits import Turns
from tests.support.expect import eventually, refused, room_in_the_minute
from tests.tools.conftest import Desk

Code = grpc.StatusCode
ADA, EVE = ("acme", "ada"), ("acme", "eve")


async def test_memory_of_one_user_is_waited_for_and_holds_up_nobody_else():
    turns = Turns(most=4, most_per_user=3, user_memory_mb=1000)
    begun: list[str] = []
    release = asyncio.Event()

    async def work(name: str, owner: tuple[str, str], memory_mb: int) -> None:
        async with turns.turn(owner, memory_mb):
            begun.append(name)
            await release.wait()

    tasks = [
        asyncio.create_task(work(*each))
        for each in (("a", ADA, 600), ("b", ADA, 600), ("c", ADA, 300), ("d", EVE, 900))
    ]
    await until(lambda: len(begun) == 3)
    assert begun == ["a", "c", "d"]
    tasks[1].cancel()
    late = asyncio.create_task(work("e", ADA, 1000))
    release.set()
    await asyncio.wait_for(late, 5)
    await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(CarrelError) as refusal:
        async with turns.turn(ADA, 1001):
            raise AssertionError("never begun")
    assert refusal.value.metadata == {"limit": "sandbox_memory_mb", "value": "1000"}


async def until(look: Callable[[], bool]) -> None:
    async def seen() -> bool:
        return look()

    await eventually(seen)


async def test_a_call_that_needs_more_memory_than_its_user_may_have_says_so(desk: Desk, own_process):
    own = Desk(desk.system, desk.person, (await own_process(USER_SANDBOX_MEMORY_MB="500")).peer)
    assert (await own.result("python", code="1 + 1", memory_mb=100))["value"] == 2
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await own.result("python", code="1 + 1", memory_mb=501)
    assert refusal.error.metadata["tool_reason"] == "LIMIT_EXCEEDED" and "sandbox_memory_mb" in refusal.error.message


async def test_what_is_used_up_in_one_process_is_used_up_in_another(desk: Desk, own_process):
    await room_in_the_minute(seconds=15)
    settings = {"USER_TOOL_BYTES": "20000"}
    first, second = [Desk(desk.system, desk.person, (await own_process(**settings)).peer) for _ in range(2)]
    second.run_id = first.run_id
    await first.execute("echo", "1", text="x" * 12_000)
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        await first.execute("echo", "2", text="x")
    # The first share of a minute is not asked for: a twentieth, and it is the last thing that passes.
    await second.execute("echo", "3", text="x" * 1_000)
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await second.execute("echo", "4", text="x")
    assert refusal.error.metadata == {"limit": "tool_bytes", "value": "20000"}


async def test_to_leave_a_query_early_is_not_free(desk: Desk, own_process):
    own = Desk(desk.system, desk.person, (await own_process(USER_TOOL_CPU_SECONDS="0.2")).peer)
    endless = "SELECT count(*) FROM range(100000000000) WHERE range * range % 7 = 1"
    with pytest.raises(grpc.aio.AioRpcError):
        request = pb.ExecuteToolRequest(step_id="1", tool="sql_query", arguments_json=json.dumps({"sql": endless}))
        await own.tools.ExecuteTool(request, metadata=await own.run_metadata(), timeout=1)
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await own.execute("echo", "2", text="x")
    assert refusal.error.metadata["limit"] == "tool_cpu_seconds"


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
