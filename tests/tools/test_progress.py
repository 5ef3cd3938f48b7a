"""A call that tells how far it has come: what its reader sees, and what ends when the reader leaves."""

from __future__ import annotations

import json
from typing import Any

import grpc

from carrel.api.tools.v1 import tool_pb2
from carrel.api.tools.v1 import tool_service_pb2 as pb
from tests.support.expect import eventually, refused
from tests.tools.conftest import Desk

Code = grpc.StatusCode


async def stream(desk: Desk, tool: str, step: str = "1", **arguments: Any) -> Any:
    call = pb.ExecuteToolRequest(step_id=step, tool=tool, arguments_json=json.dumps(arguments))
    request = pb.ExecuteToolStreamRequest(call=call)
    return desk.tools.ExecuteToolStream(request, metadata=await desk.run_metadata(), timeout=60)


async def test_progress_comes_in_order_and_the_result_last(desk: Desk):
    messages = [message async for message in await stream(desk, "walk", steps=5)]
    assert [message.progress.done for message in messages[:-1]] == [1, 2, 3, 4, 5]
    assert {len(message.progress.message) for message in messages[:-1]} == {500}
    assert json.loads(messages[-1].result.result_json) == {"walked": 5}
    [replayed] = [message async for message in await stream(desk, "walk", steps=5)]
    assert replayed.result.replayed


async def test_of_a_flood_of_progress_the_latest_is_told_and_memory_stays_flat(desk: Desk):
    messages = [message async for message in await stream(desk, "walk", steps=100_000)]
    assert len(messages) <= 102 and messages[-2].progress.done == 100_000
    assert json.loads(messages[-1].result.result_json) == {"walked": 100_000}


async def test_python_tells_of_each_file_that_it_stores(desk: Desk):
    code = "for name in 'ab': open(name + '.csv', 'w').write('n\\n1\\n')"
    keep = {f"{name}.csv": {"name": f"kept-{name}", "media_type": "text/csv"} for name in "ab"}
    *told, last = [message async for message in await stream(desk, "python", code=code, keep=keep)]
    assert [(each.progress.done, each.progress.total) for each in told] == [(0, 2), (1, 2)]
    assert ["kept-a" in told[0].progress.message, "kept-b" in told[1].progress.message] == [True, True]
    assert last.HasField("result") and await desk.names() == ["kept-a", "kept-b"]


async def test_a_refusal_ends_the_stream_like_any_call(desk: Desk):
    for tool, code, reason in (
        ("no_such_tool", Code.NOT_FOUND, "TOOL_NOT_FOUND"),
        ("walk", Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        ("crash", Code.FAILED_PRECONDITION, "TOOL_FAILED"),
    ):
        with refused(code, reason):
            async for _ in await stream(desk, tool, tool):
                raise AssertionError("nothing is told before a refusal")


async def test_who_leaves_the_stream_cancels_the_call(desk: Desk):
    left = await stream(desk, "walk", steps=1, seconds=60)
    assert (await left.read()).progress.done == 1
    left.cancel()

    async def ended() -> bool:
        return [call.outcome for call in await desk.calls()] == [tool_pb2.TOOL_OUTCOME_UNKNOWN]

    await eventually(ended)
