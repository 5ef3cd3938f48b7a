"""Tools through real calls: who sees which, each step once, and what is left when a caller or the process goes away."""

from __future__ import annotations

import asyncio
import json
import secrets

import grpc
import pytest

from carrel.api.tools.v1 import tool_pb2
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.rpc.status import from_rpc_error
from tests.support.expect import eventually, refused
from tests.tools.conftest import Desk
from tests.tools.effects import effects

Code = grpc.StatusCode


async def test_a_tool_returns_its_result(desk: Desk):
    answer = await desk.execute("echo", text="hello\x00 — ünï")
    assert answer.tool_call_id and not answer.replayed
    assert await desk.result("echo", text="hello\x00 — ünï") == {"text": "hello\x00 — ünï"}


async def test_the_same_step_again_returns_the_same_result_without_a_second_effect(desk: Desk):
    key = secrets.token_hex(8)
    first = await desk.execute("count", key=key)
    again = await desk.execute("count", key=key, attempt=2)
    assert again.replayed and (again.tool_call_id, again.result_json) == (first.tool_call_id, first.result_json)
    assert effects(desk.system, key) == 1


async def test_the_same_step_with_other_arguments_or_another_tool_is_refused(desk: Desk):
    await desk.execute("echo", text="a")
    with refused(Code.ABORTED, "STEP_REUSED"):
        await desk.execute("echo", text="b")
    with refused(Code.ABORTED, "STEP_REUSED"):
        await desk.execute("crash", text="a")


async def test_two_calls_of_one_step_at_once_take_effect_once(desk: Desk, own_process):
    replica = Desk(desk.system, desk.person, (await own_process()).peer)
    replica.run_id = desk.run_id
    key = secrets.token_hex(8)
    calls = [each.execute("count", key=key) for each in (desk, desk, replica, replica)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert effects(desk.system, key) == 1
    for error in (each for each in answers if isinstance(each, grpc.aio.AioRpcError)):
        assert error.code() in (Code.ABORTED, Code.FAILED_PRECONDITION)


async def test_another_user_with_the_same_run_and_step_has_a_ledger_of_their_own(desk: Desk, other: Desk):
    await desk.execute("echo", text="ada's")
    other.run_id = desk.run_id
    assert not (await other.execute("echo", text="eve's")).replayed
    assert len(await desk.calls()) == len(await other.calls()) == 1


async def test_hidden_and_absent_tools_are_refused_alike(desk: Desk):
    answers = []
    for tool in ("corpus_delete", "corpus_absent"):
        with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND") as refusal:
            await desk.execute(tool, name="x")
        answers.append((refusal.error.message.replace(tool, "…"), refusal.error.metadata))
    assert answers[0] == answers[1]
    calls = await desk.calls()
    assert [call.outcome for call in calls] == [tool_pb2.TOOL_OUTCOME_DENIED] * 2
    assert {call.error_message.replace(call.tool, "…") for call in calls} == {answers[0][0]}


async def test_a_denied_step_succeeds_once_the_right_is_granted(desk: Desk):
    with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND"):
        await desk.execute("sql_query", scopes=("tools.use",), sql="SELECT 1")
    answer = await desk.execute("sql_query", sql="SELECT 1 AS one")
    assert answer.result_json == '{"columns":["one"],"rows":[[1]],"truncated":false,"next":null}'


async def test_tools_without_their_scope_are_not_listed(desk: Desk):
    listed = await desk.tools.ListTools(pb.ListToolsRequest(), metadata=desk.person.metadata)
    names = [tool.name for tool in listed.tools]
    assert {"echo", "sql_query", "statistics"} <= set(names) and "corpus_delete" not in names
    admin = await desk.run_metadata(scopes=("tools.use", "corpora.admin"))
    listed = await desk.tools.ListTools(pb.ListToolsRequest(), metadata=admin)
    names = [tool.name for tool in listed.tools]
    assert "corpus_delete" in names and "sql_query" not in names


@pytest.mark.parametrize(
    "arguments", ["", "null", "[]", "{", '{"text": NaN}', '{"text": 1}', "{}", '"\\ud800"', "[" * 100_000]
)
async def test_wrong_arguments_are_refused_before_anything_is_written(desk: Desk, arguments: str):
    request = pb.ExecuteToolRequest(step_id="1", tool="echo", arguments_json=arguments)
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await desk.tools.ExecuteTool(request, metadata=await desk.run_metadata())
    assert any(field.startswith("arguments_json") for field in refusal.error.fields)
    assert await desk.calls() == []


async def test_arguments_over_a_mebibyte_are_refused(desk: Desk):
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await desk.execute("echo", text="x" * 1024 * 1024)


async def test_a_failed_step_fails_the_same_way_again(desk: Desk):
    for again in ({}, {"replayed": "true"}):
        with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
            await desk.execute("sql_query", sql="SELECT nothing")
        assert refusal.error.metadata == {"tool_reason": "SQL_ERROR"} | again
        assert "nothing" in refusal.error.message
    assert [call.outcome for call in await desk.calls()] == [tool_pb2.TOOL_OUTCOME_FAILED]


async def test_a_tool_that_breaks_tells_its_type_and_no_more(desk: Desk):
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.execute("crash")
    assert refusal.error.metadata == {"tool_reason": "TOOL_CRASHED"}
    assert "RuntimeError" in refusal.error.message and "secret" not in refusal.error.message


async def test_a_result_over_a_mebibyte_is_a_failure(desk: Desk):
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.execute("huge")
    assert refusal.error.metadata == {"tool_reason": "TOO_LARGE"}


async def test_a_result_that_is_not_json_is_a_failure(desk: Desk):
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.execute("not_json")
    assert refusal.error.metadata == {"tool_reason": "TOOL_CRASHED"}


async def test_a_hundred_megabytes_of_arguments_are_refused_unread(desk: Desk):
    request = pb.ExecuteToolRequest(step_id="1", tool="echo", arguments_json="x" * 100_000_000)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await desk.tools.ExecuteTool(request, metadata=await desk.run_metadata(), timeout=60)
    assert refusal.value.code() is Code.RESOURCE_EXHAUSTED
    await desk.execute("echo", text="the next call is none the wiser")


async def test_a_flood_of_calls_is_refused_beyond_the_limit_and_holds_up_nobody_else(desk: Desk, other: Desk):
    calls = [desk.execute("sleep", str(step), seconds=0.2) for step in range(100)]
    flood = asyncio.gather(*calls, return_exceptions=True)
    assert not (await other.execute("echo", text="a")).replayed
    answers = await flood
    reasons = {from_rpc_error(each).reason for each in answers if isinstance(each, grpc.aio.AioRpcError)}
    assert reasons == {"LIMIT_EXCEEDED"} and any(not isinstance(each, Exception) for each in answers)


async def test_an_older_attempt_is_fenced_off_in_every_step_of_the_run(desk: Desk):
    await desk.execute("echo", "1", attempt=2, text="a")
    for step in ("1", "2"):
        with refused(Code.ABORTED, "STALE_ATTEMPT"):
            await desk.execute("echo", step, attempt=1, text="a")


async def test_a_cancelled_idempotent_step_leaves_nothing_and_runs_again(desk: Desk):
    key = secrets.token_hex(8)
    call = asyncio.create_task(desk.execute("sleep", seconds=30, key=key))

    async def begun() -> bool:
        return effects(desk.system, key) == 1

    await eventually(begun)
    # The same step cannot begin while the other runs, nor while the server still unwinds it; it says so, and to come again.
    with refused(Code.ABORTED, "UNAVAILABLE"):
        await desk.execute("sleep", seconds=0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await desk.calls() == []
    assert await eventually(lambda: _not_running(desk.execute("sleep", seconds=0)))
    assert [each.outcome for each in await desk.calls()] == [tool_pb2.TOOL_OUTCOME_SUCCEEDED]


async def test_an_idempotent_step_that_comes_again_gives_the_first_result(desk: Desk, own_process):
    """It may run again, and what it returns then is not what is told."""
    replica = Desk(desk.system, desk.person, (await own_process()).peer)
    replica.run_id = desk.run_id
    first = await desk.execute("dice")
    for each, attempt in ((desk, 1), (replica, 1), (replica, 2)):
        again = await each.execute("dice", attempt=attempt)
        assert again.replayed and (again.tool_call_id, again.result_json) == (first.tool_call_id, first.result_json)
    assert json.loads(first.result_json) != await desk.result("dice")


async def _not_running(call):
    """The answer of a call, nothing while its step is still executed."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if from_rpc_error(error).reason != "UNAVAILABLE":
            raise
        return None


async def test_a_cancelled_step_with_an_effect_is_unknown(desk: Desk):
    key = secrets.token_hex(8)
    call = asyncio.create_task(desk.execute("count", key=key, seconds=30))

    async def begun() -> bool:
        return effects(desk.system, key) == 1

    await eventually(begun)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    with refused(Code.FAILED_PRECONDITION, "OUTCOME_UNKNOWN"):
        await eventually(lambda: _not_running(desk.execute("count", key=key, seconds=30)))
    assert effects(desk.system, key) == 1
    assert [each.outcome for each in await desk.calls()] == [tool_pb2.TOOL_OUTCOME_UNKNOWN]


async def test_after_a_kill_an_effect_is_not_repeated_and_a_reading_is(desk: Desk, own_process):
    own = await own_process()
    doomed = Desk(desk.system, desk.person, own.peer)
    doomed.run_id = desk.run_id
    key = secrets.token_hex(8)
    calls = [
        asyncio.create_task(doomed.execute("count", "1", key=key, seconds=30)),
        asyncio.create_task(doomed.execute("sleep", "2", seconds=0.5, key=f"{key}-2")),
    ]

    async def begun() -> bool:
        return effects(desk.system, key) == effects(desk.system, f"{key}-2") == 1

    await eventually(begun)
    await own.kill()
    await asyncio.gather(*calls, return_exceptions=True)
    with refused(Code.FAILED_PRECONDITION, "OUTCOME_UNKNOWN"):
        await desk.execute("count", "1", attempt=2, key=key, seconds=30)
    assert effects(desk.system, key) == 1
    assert (await desk.execute("sleep", "2", attempt=2, seconds=0.5, key=f"{key}-2")).result_json == '{"slept":0.5}'


async def test_a_tool_that_takes_too_long_is_stopped(desk: Desk, own_process):
    own = Desk(desk.system, desk.person, (await own_process(TOOL_DEADLINE_SECONDS="0.5")).peer)
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await own.execute("sql_query", sql="SELECT count(*) FROM range(100000000000) WHERE range * range % 7 = 1")
    assert refusal.error.metadata == {"tool_reason": "TOOL_TIMEOUT"}
    with refused(Code.FAILED_PRECONDITION, "OUTCOME_UNKNOWN"):
        await own.execute("count", "2", key=secrets.token_hex(8), seconds=30)


async def test_one_user_has_only_so_many_calls_under_way(desk: Desk, other: Desk, own_process):
    own = (await own_process(USER_TOOL_CALLS="2")).peer
    mine, theirs = Desk(desk.system, desk.person, own), Desk(desk.system, other.person, own)
    calls = [asyncio.create_task(mine.execute("count", str(step), seconds=30)) for step in range(2)]

    async def begun() -> bool:
        return len(await mine.calls()) == 2

    await eventually(begun)
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await mine.execute("echo", "3", text="a")
    assert refusal.error.metadata == {"limit": "tool_calls", "value": "2"} and refusal.error.retry_seconds == 1
    await theirs.execute("echo", text="not held up")
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_the_ledger_pages_newest_first(desk: Desk, other: Desk):
    for step in range(5):
        await desk.execute("echo", str(step), text="a")
    first_run, desk.run_id = desk.run_id, "run-of-another-day"
    await desk.execute("echo", "5", text="a")
    seen, token = [], ""
    while True:
        request = pb.ListToolCallsRequest(page_size=2, page_token=token, run_id=first_run)
        answer = await desk.tools.ListToolCalls(request, metadata=desk.person.metadata)
        seen += [call.step_id for call in answer.tool_calls]
        token = answer.next_page_token
        if not token:
            break
        # The token of somebody else's list shows own rows only, and none of another list.
        eves = pb.ListToolCallsRequest(page_token=token, run_id=first_run)
        assert not (await other.tools.ListToolCalls(eves, metadata=other.person.metadata)).tool_calls
        with refused(Code.INVALID_ARGUMENT, "CURSOR_INVALID"):
            await desk.calls(page_token=token)
    assert seen == ["4", "3", "2", "1", "0"]
    assert [call.step_id for call in await desk.calls(page_size=1)] == ["5"]


@pytest.mark.parametrize("token", ["x", "AAAA", "bnVsbA==", "WyJ0b29sX2NhbGxzIl0=", "é", "W1tbW1s="])
async def test_a_page_token_that_was_not_given_out_is_refused(desk: Desk, token: str):
    with refused(Code.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await desk.calls(page_token=token)
    with refused(Code.INVALID_ARGUMENT, "CURSOR_INVALID"):
        request = pb.ListCorporaRequest(page_token=token)
        await desk.corpora.ListCorpora(request, metadata=desk.person.metadata)


async def test_only_agent_execution_executes_and_only_for_a_run(desk: Desk, eve):
    request = pb.ExecuteToolRequest(step_id="1", tool="echo", arguments_json='{"text": "a"}')
    with refused(Code.UNAUTHENTICATED, "SERVICE_IDENTITY_INVALID"):
        await desk.tools.ExecuteTool(request, metadata=desk.person.metadata)
    with refused(Code.PERMISSION_DENIED, "RUN_CONTEXT_REQUIRED"):
        await desk.tools.ExecuteTool(request, metadata=desk.peer.metadata(eve.signed_context))
