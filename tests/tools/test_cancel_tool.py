"""CancelTool: one call is stopped from beside, whichever process executes it, and the answer says what is known of it then."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import asyncpg
import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from carrel.api.tools.v1 import tool_pb2
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.rpc.status import from_rpc_error
from tests.support.expect import eventually, refused
from tests.tools.conftest import Desk
from tests.tools.effects import effects
from tests.tools.test_cancel import begun, endless, gone, runs_now

Code = grpc.StatusCode
STOPPED = tool_pb2.TOOL_CANCELLATION_STOPPED
ENDED = tool_pb2.TOOL_CANCELLATION_ENDED
NOT_STOPPED = tool_pb2.TOOL_CANCELLATION_NOT_STOPPED


async def cancel(desk: Desk, tool_call_id: str, milliseconds: int = 0) -> pb.CancelToolResponse:
    request = pb.CancelToolRequest(tool_call_id=tool_call_id)
    if milliseconds:
        request.wait.FromMilliseconds(milliseconds)
    return await desk.tools.CancelTool(request, metadata=desk.person.metadata, timeout=40)


async def requests_of(desk: Desk) -> int:
    """How many requests to cancel something of this person's lie about."""
    connection = await asyncpg.connect(desk.system.database_url("postgres", driver="postgresql"))
    try:
        query = "SELECT count(*) FROM tools.tool_cancel WHERE tenant_id = $1"
        return int(await connection.fetchval(query, desk.person.tenant_id))
    finally:
        await connection.close()


async def under_way(desk: Desk) -> asyncio.Task[pb.ExecuteToolResponse]:
    """A call of `sleep` for a minute, in step 1, that has begun."""
    key = secrets.token_hex(8)
    call = asyncio.create_task(desk.execute("sleep", seconds=60, key=key))

    async def slept() -> bool:
        return effects(desk.system, key) == 1

    await eventually(slept)
    return call


async def test_a_cancelled_call_leaves_no_process_and_its_run_is_told(desk: Desk):
    name, code = endless()
    call = asyncio.create_task(desk.execute("python", code=code))
    await begun(name)
    answer = await cancel(desk, f"{desk.run_id}.1")
    await gone(name)
    assert (answer.cancellation, answer.tool_call.outcome) == (STOPPED, tool_pb2.TOOL_OUTCOME_FAILED)
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await call
    assert refusal.error.metadata["tool_reason"] == "TOOL_CANCELLED"
    assert await cancel(desk, f"{desk.run_id}.1") == answer
    assert await requests_of(desk) == 0


async def test_the_same_step_again_tells_of_the_cancel_and_runs_nothing(desk: Desk):
    call = await under_way(desk)
    await cancel(desk, f"{desk.run_id}.1")
    [key] = [each.tool_call_id for each in await desk.calls()]
    assert key == f"{desk.run_id}.1"
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    with refused(Code.ABORTED, "STEP_REUSED"):
        await desk.execute("echo", text="another call in its place")
    assert (await desk.execute("echo", "2", text="the run goes on")).result_json


async def test_an_effect_that_may_have_happened_is_unknown(desk: Desk):
    key = secrets.token_hex(8)
    call = asyncio.create_task(desk.execute("count", key=key, seconds=60))

    async def happened() -> bool:
        return effects(desk.system, key) == 1

    await eventually(happened)
    answer = await cancel(desk, f"{desk.run_id}.1")
    assert (answer.cancellation, answer.tool_call.outcome) == (STOPPED, tool_pb2.TOOL_OUTCOME_UNKNOWN)
    assert "cancelled" in answer.tool_call.error_message
    with refused(Code.FAILED_PRECONDITION, "OUTCOME_UNKNOWN"):
        await call
    with refused(Code.FAILED_PRECONDITION, "OUTCOME_UNKNOWN"):
        await desk.execute("count", attempt=2, key=key, seconds=60)
    assert effects(desk.system, key) == 1


@pytest.mark.parametrize("settings", [{}, {"NATS_URL": ""}], ids=["told", "without the bus"])
async def test_a_call_in_another_process_is_stopped(desk: Desk, own_process: Any, settings: dict[str, str]):
    elsewhere = Desk(desk.system, desk.person, (await own_process(**settings)).peer)
    name, code = endless()
    call = asyncio.create_task(elsewhere.execute("python", code=code))
    await begun(name)
    answer = await cancel(desk, f"{elsewhere.run_id}.1")
    await gone(name)
    assert (answer.cancellation, answer.tool_call.outcome) == (STOPPED, tool_pb2.TOOL_OUTCOME_FAILED)
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED"):
        await call


async def test_what_died_with_its_process_is_not_known_to_have_stopped(desk: Desk, own_process: Any):
    own = await own_process()
    doomed = Desk(desk.system, desk.person, own.peer)
    call = asyncio.create_task(doomed.execute("count", key=secrets.token_hex(8), before=60))
    await eventually(desk.calls)
    await own.kill()
    await asyncio.gather(call, return_exceptions=True)
    answer = await cancel(desk, f"{doomed.run_id}.1", 100)
    assert (answer.cancellation, answer.tool_call.outcome) == (NOT_STOPPED, tool_pb2.TOOL_OUTCOME_INTENDED)


async def test_a_tool_that_goes_on_is_not_said_to_have_stopped(desk: Desk):
    call = asyncio.create_task(desk.execute("stubborn", seconds=1.5))
    tool_call_id = f"{desk.run_id}.1"
    answers: list[pb.CancelToolResponse] = []

    async def heard() -> bool:
        try:
            answers.append(await cancel(desk, tool_call_id, 100))
        except grpc.aio.AioRpcError as error:  # it had not begun
            assert error.code() is Code.NOT_FOUND
        return bool(answers)

    await eventually(heard)
    assert answers[0].cancellation == NOT_STOPPED and not answers[0].HasField("tool_call")
    assert (await call).result_json == '{"slept":1.5}'
    answer = await cancel(desk, tool_call_id)
    assert (answer.cancellation, answer.tool_call.outcome) == (ENDED, tool_pb2.TOOL_OUTCOME_SUCCEEDED)


async def test_what_had_ended_is_said_to_have_ended(desk: Desk):
    await desk.execute("echo", text="a")
    with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND"):
        await desk.execute("no_such_tool", "2")
    outcomes = []
    for line in await desk.calls():
        answer = await cancel(desk, line.tool_call_id)
        assert (answer.cancellation, answer.tool_call) == (ENDED, line)
        outcomes.append(line.outcome)
    assert set(outcomes) == {tool_pb2.TOOL_OUTCOME_SUCCEEDED, tool_pb2.TOOL_OUTCOME_DENIED}


async def test_nobody_else_stops_a_call_or_learns_of_it(desk: Desk, other: Desk):
    name, code = endless()
    call = asyncio.create_task(desk.execute("python", code=code))
    await begun(name)
    colleague = Desk(desk.system, await desk.system.person(desk.person.tenant_id), desk.peer)

    async def told(stranger: Desk, tool_call_id: str) -> tuple[object, ...]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await cancel(stranger, tool_call_id, 700)  # longer than a process takes to look
        error = from_rpc_error(raised.value)
        return raised.value.code(), error.reason, error.message, *error.metadata.items()

    ids = (f"{desk.run_id}.1", f"{desk.run_id}.2", "run-that-never-was.1")
    answers = set(await asyncio.gather(*(told(stranger, each) for stranger in (other, colleague) for each in ids)))
    assert [answer[:2] for answer in answers] == [(Code.NOT_FOUND, "TOOL_CALL_NOT_FOUND")]
    assert runs_now(name) and not call.done()
    await cancel(desk, f"{desk.run_id}.1")
    await asyncio.gather(call, return_exceptions=True)
    with refused(Code.NOT_FOUND, "TOOL_CALL_NOT_FOUND"):
        await cancel(other, f"{desk.run_id}.1", 100)


async def test_two_users_may_have_calls_of_one_id(desk: Desk, other: Desk):
    other.run_id = desk.run_id
    calls = [await under_way(each) for each in (desk, other)]
    assert (await cancel(other, f"{desk.run_id}.1")).cancellation == STOPPED
    with pytest.raises(grpc.aio.AioRpcError):
        await calls[1]
    assert not calls[0].done()
    assert (await cancel(desk, f"{desk.run_id}.1")).cancellation == STOPPED
    with pytest.raises(grpc.aio.AioRpcError):
        await calls[0]


async def test_who_leaves_a_cancel_leaves_no_request(desk: Desk):
    asking = asyncio.create_task(cancel(desk, f"{desk.run_id}.1", 30_000))

    async def asked() -> bool:
        return await requests_of(desk) == 1

    async def taken_back() -> bool:
        return await requests_of(desk) == 0

    await eventually(asked)
    asking.cancel()
    await eventually(taken_back)


async def test_requests_of_one_user_are_few_at_a_time(desk: Desk):
    waiting = [cancel(desk, f"{desk.run_id}.{number}", 900) for number in range(9)]
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    codes = sorted(error.code().name for error in errors if isinstance(error, grpc.aio.AioRpcError))
    assert codes == ["NOT_FOUND"] * 8 + ["RESOURCE_EXHAUSTED"]


@pytest.mark.parametrize("seconds", [0, 31])
async def test_a_wait_that_cannot_be_is_refused(desk: Desk, seconds: int):
    request = pb.CancelToolRequest(tool_call_id="run-1.1", wait=Duration(seconds=seconds))
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await desk.tools.CancelTool(request, metadata=desk.person.metadata)


@pytest.mark.parametrize("tool_call_id", ["", "a b", "x" * 513])
async def test_an_id_that_cannot_be_is_refused(desk: Desk, tool_call_id: str):
    with refused(Code.INVALID_ARGUMENT, "INVALID_ID"):
        await cancel(desk, tool_call_id)
