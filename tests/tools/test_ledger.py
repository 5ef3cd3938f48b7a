"""Effects and what is known of them: tools that can look whether theirs happened, records that stay, records that go."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import asyncpg
import grpc
import pytest

from carrel.api.tools.v1 import tool_pb2
from carrel_chassis.db.engine import cross_user_engine
from carrel_tools.retention import LedgerRetention
from tests.support.expect import eventually, refused
from tests.tools.administration import own_decisions
from tests.tools.conftest import Desk
from tests.tools.effects import effects

Code = grpc.StatusCode


async def died(desk: Desk, own_process: Any, **arguments: Any) -> None:
    """A call of `post` whose process is killed when its intent is written, or its effect has happened if it is to pause after it."""
    own = await own_process()
    doomed = Desk(desk.system, desk.person, own.peer)
    doomed.run_id = desk.run_id
    call = asyncio.create_task(doomed.execute("post", **arguments))

    async def far_enough() -> bool:
        return effects(desk.system, arguments["key"]) == 1 if "after" in arguments else bool(await desk.calls())

    await eventually(far_enough)
    await own.kill()
    await asyncio.gather(call, return_exceptions=True)


async def test_an_effect_that_happened_before_the_kill_is_found_and_not_repeated(desk: Desk, own_process):
    key = secrets.token_hex(8)
    await died(desk, own_process, key=key, after=30)
    answer = await desk.execute("post", attempt=2, key=key, after=30)
    assert (answer.result_json, answer.replayed) == (f'{{"posted":"{key}"}}', False)
    assert (await desk.execute("post", attempt=2, key=key, after=30)).replayed
    assert effects(desk.system, key) == 1


async def test_an_effect_that_had_not_happened_happens_once(desk: Desk, own_process):
    key = secrets.token_hex(8)
    await died(desk, own_process, key=key, before=5)
    answer = await desk.execute("post", attempt=2, key=key, before=5)
    assert answer.result_json == f'{{"posted":"{key}"}}' and effects(desk.system, key) == 1


async def test_where_the_tool_cannot_tell_nobody_knows(desk: Desk, own_process):
    key = f"unclear-{secrets.token_hex(8)}"
    await died(desk, own_process, key=key, before=30)
    for again in ({}, {"replayed": "true"}):
        with refused(Code.FAILED_PRECONDITION, "OUTCOME_UNKNOWN") as refusal:
            await desk.execute("post", attempt=2, key=key, before=30)
        assert refusal.error.metadata == {"tool": "post", "step_id": "1"} | again
    assert effects(desk.system, key) == 0
    assert [each.outcome for each in await desk.calls()] == [tool_pb2.TOOL_OUTCOME_UNKNOWN]


async def test_a_step_that_is_taken_over_is_decided_anew_and_both_decisions_stay(desk: Desk, own_process):
    key = secrets.token_hex(8)
    await died(desk, own_process, key=key, after=30)
    await desk.execute("post", attempt=2, key=key, after=30)
    first, again = sorted(await own_decisions(desk), key=lambda each: each.create_time.ToNanoseconds())
    assert first.tool_call_id != again.tool_call_id and first.step_id == again.step_id == "1"
    assert [each.rule_id for each in (first, again)] == ["default.tools"] * 2
    assert len(await desk.calls()) == 1


async def test_what_was_decided_cannot_be_changed_or_removed_by_the_service(desk: Desk):
    await desk.execute("echo", text="a")
    connection = await asyncpg.connect(desk.system.database_url("carrel_tools", driver="postgresql"))
    owner = (desk.person.tenant_id, desk.person.user_id)
    bind = "SELECT set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)"
    try:
        for statement in (
            *(
                f"UPDATE tool_call SET {column} = 'x'"
                for column in ("rule", "policy_version", "tool", "arguments_sha256")
            ),
            "UPDATE tool_call SET approval_id = 'x'",
            "DELETE FROM tool_call",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with connection.transaction():
                    await connection.execute(bind, *owner)
                    await connection.execute(statement)
    finally:
        await connection.close()


async def test_old_lines_go_in_batches_and_young_ones_stay(desk: Desk, other: Desk):
    for each in (desk, other):
        for step in ("1", "2"):
            await each.execute("echo", step, text="a")
    url = desk.system.database_url("postgres", driver="postgresql")
    connection = await asyncpg.connect(url)
    try:
        aged = "UPDATE tools.tool_call SET create_time = now() - interval '91 days' WHERE tenant_id = $1"
        await connection.execute(f"{aged} AND step_id = '1'", desk.person.tenant_id)
    finally:
        await connection.close()
    engine = cross_user_engine(desk.system.database_url("carrel_tools_keeper"), 1)
    try:
        assert await LedgerRetention(engine, 90 * 24 * 3600.0).once() >= 1
    finally:
        await engine.dispose()
    assert [each.step_id for each in await desk.calls()] == ["2"]
    assert len(await other.calls()) == 2


async def test_who_removes_old_lines_reads_nothing_of_them(desk: Desk):
    await desk.execute("echo", text="a secret")
    connection = await asyncpg.connect(desk.system.database_url("carrel_tools_keeper", driver="postgresql"))
    try:
        for column in ("result_json", "tool", "run_id", "arguments_sha256"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT {column} FROM tool_call")
    finally:
        await connection.close()


async def test_the_administrators_role_sees_its_tenant_and_no_result(desk: Desk, other: Desk):
    for each in (desk, other):
        await each.execute("echo", text="a secret")
    connection = await asyncpg.connect(desk.system.database_url("carrel_tools_admin", driver="postgresql"))
    try:
        assert await connection.fetch("SELECT tool FROM tool_call") == []
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", desk.person.tenant_id)
            rows = await connection.fetch("SELECT user_id FROM tool_call")
            assert {row["user_id"] for row in rows} == {desk.person.user_id}
        for statement in ("SELECT result_json FROM tool_call", "DELETE FROM tool_call"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(statement)
    finally:
        await connection.close()
