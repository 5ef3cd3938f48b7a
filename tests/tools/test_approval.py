"""Consent to one call: asked for, checked again at the moment of use, good for one step."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from carrel.api.tools.v1 import policy_service_pb2, tool_pb2
from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_tools.consent import digest_of
from tests.support.expect import eventually, refused
from tests.tools.administration import ALLOW, ASK, ToolAdministrator, after, consent, own_decisions, rule
from tests.tools.conftest import Desk
from tests.tools.effects import effects

Code = grpc.StatusCode


async def asked(desk: Desk, step: str = "1", approval: pb.Approval | None = None, **arguments: Any) -> CarrelError:
    """The question that a call of `post` is answered with."""
    with refused(Code.FAILED_PRECONDITION, "APPROVAL_REQUIRED") as refusal:
        await desk.execute("post", step, approval=approval, ask=True, **arguments)
    return refusal.error


def test_the_digest_is_what_the_proto_says():
    text = '{"arguments":{"a":[1,"ü"],"b":null},"tool":"mail"}'
    assert digest_of("mail", {"b": None, "a": [1, "ü"]}) == hashlib.sha256(text.encode()).hexdigest()


async def test_a_call_that_needs_consent_runs_with_it_and_not_before(desk: Desk):
    key = secrets.token_hex(8)
    question = await asked(desk, key=key)
    assert question.metadata["tool"] == "post" and float(question.metadata["expire_seconds"]) == 24 * 3600
    assert question.metadata["arguments_digest"] == digest_of("post", {"ask": True, "key": key})
    assert effects(desk.system, key) == 0
    approval = consent(desk, question.metadata["arguments_digest"])
    answer = await desk.execute("post", approval=approval, ask=True, key=key)
    assert json.loads(answer.result_json) == {"posted": key} and effects(desk.system, key) == 1
    done, required = await own_decisions(desk)
    assert (done.effect, done.rule_id, done.approval_id) == (ALLOW, "TOOL_ITSELF", approval.approval_id)
    assert (required.effect, required.rule_id, required.approval_id) == (ASK, "TOOL_ITSELF", "")


async def test_a_step_that_has_its_result_is_told_again_without_consent(desk: Desk):
    key = secrets.token_hex(8)
    digest = (await asked(desk, key=key)).metadata["arguments_digest"]
    await desk.execute("post", approval=consent(desk, digest), ask=True, key=key)
    for approval in (None, consent(desk, digest, expire_time=after(-1))):
        assert (await desk.execute("post", attempt=2, approval=approval, ask=True, key=key)).replayed
    assert effects(desk.system, key) == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"user_id": "user-of-somebody"}, "OTHER_USER"),
        ({"user_id": ""}, "OTHER_USER"),
        ({"arguments_digest": "0" * 64}, "OTHER_ARGUMENTS"),
        ({"approval_id": ""}, "OTHER_ARGUMENTS"),
        ({"expire_time": None}, "EXPIRED"),
        ({"expire_time": after(-1)}, "EXPIRED"),
        ({"approve_time": after(3600)}, "EXPIRED"),
    ],
)
async def test_a_consent_of_somebody_else_or_to_something_else_or_too_old_is_none(
    desk: Desk, changes: dict[str, Any], why: str
):
    key = secrets.token_hex(8)
    digest = (await asked(desk, key=key)).metadata["arguments_digest"]
    question = await asked(desk, approval=consent(desk, digest, **changes), key=key)
    assert question.metadata["refused"] == why and question.metadata["arguments_digest"] == digest
    assert effects(desk.system, key) == 0


async def test_a_consent_to_other_arguments_is_none(desk: Desk):
    digest = (await asked(desk, key="a")).metadata["arguments_digest"]
    assert (await asked(desk, approval=consent(desk, digest), key="b")).metadata["refused"] == "OTHER_ARGUMENTS"


async def test_a_consent_serves_one_step(desk: Desk):
    key = secrets.token_hex(8)
    approval = consent(desk, (await asked(desk, key=key)).metadata["arguments_digest"])
    await desk.execute("post", "1", approval=approval, ask=True, key=key)
    assert (await asked(desk, "2", approval, key=key)).metadata["refused"] == "USED"
    assert effects(desk.system, key) == 1


async def test_the_consent_of_one_user_is_worth_nothing_to_another(desk: Desk, other: Desk):
    key = secrets.token_hex(8)
    other.run_id = desk.run_id
    approval = consent(desk, (await asked(desk, key=key)).metadata["arguments_digest"])
    assert (await asked(other, approval=approval, key=key)).metadata["refused"] == "OTHER_USER"
    await desk.execute("post", approval=approval, ask=True, key=key)


async def test_a_rule_may_demand_consent_for_any_tool(desk: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set(rule("rest", ALLOW), rule("ask.first", ASK, "echo", priority=1))
    with refused(Code.FAILED_PRECONDITION, "APPROVAL_REQUIRED") as refusal:
        await desk.execute("echo", text="a")
    approval = consent(desk, refusal.error.metadata["arguments_digest"])
    assert (await desk.execute("echo", approval=approval, text="a")).result_json == '{"text":"a"}'
    assert [each.rule_id for each in await own_decisions(desk)] == ["ask.first", "ask.first"]


async def test_no_rule_takes_away_the_consent_that_a_tool_demands(desk: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set(rule("all", ALLOW, priority=1000))
    await asked(desk, key="a")
    assert await admin.trial(desk.person.user_id, "post", '{"key": "a", "ask": true}', scopes=["tools.use"]) == (
        policy_service_pb2.TOOL_EFFECT_REQUIRE_APPROVAL,
        "TOOL_ITSELF",
    )


async def test_consent_to_what_the_policy_forbids_meanwhile_opens_nothing(desk: Desk):
    key = secrets.token_hex(8)
    approval = consent(desk, (await asked(desk, key=key)).metadata["arguments_digest"])
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set(rule("only.echo", ALLOW, "echo"))
    with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND"):
        await desk.execute("post", approval=approval, ask=True, key=key)
    assert effects(desk.system, key) == 0


async def test_the_question_is_a_line_of_the_ledger_and_uses_up_no_step(desk: Desk):
    await asked(desk, key="a")
    await asked(desk, key="a")
    lines = await desk.calls()
    assert [line.outcome for line in lines] == [tool_pb2.TOOL_OUTCOME_DENIED] * 2


async def test_of_two_steps_with_one_consent_at_the_same_instant_one_is_asked_again(desk: Desk):
    key = secrets.token_hex(8)
    approval = consent(desk, (await asked(desk, key=key)).metadata["arguments_digest"])
    async with own_lines(desk) as lines:
        # A step of another process that has written its intent and not yet committed it: no look beforehand can see that.
        await lines.execute(text(_OTHER_STEP), _of(desk, approval))
        xid = (await lines.execute(text("SELECT pg_current_xact_id()::text"))).scalar_one()
        late = asyncio.create_task(asked(desk, "late", approval, key=key))
        async with own_lines(desk) as looks:

            async def waits_for_it() -> bool:
                query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid::text = :xid"
                return bool((await looks.execute(text(query), {"xid": xid})).scalar_one())

            await eventually(waits_for_it)
        await lines.commit()
    assert (await late).metadata["refused"] == "USED" and effects(desk.system, key) == 0


_OTHER_STEP = """
    INSERT INTO tool_call (tenant_id, user_id, tool_call_id, run_id, step_id, attempt, agent, tool, arguments_sha256, holder, outcome,
                           approval_id)
    VALUES (:tenant_id, :user_id, 'call-elsewhere', :run_id, 'early', 1, 'echo', 'post', '', 'process-elsewhere', 'INTENDED', :approval_id)
"""


def _of(desk: Desk, approval: pb.Approval) -> dict[str, str]:
    person = desk.person
    own = {"tenant_id": person.tenant_id, "user_id": person.user_id}
    return {**own, "run_id": desk.run_id, "approval_id": approval.approval_id}


@asynccontextmanager
async def own_lines(desk: Desk) -> AsyncIterator[AsyncConnection]:
    """A transaction as tool-dispatch has it for this person."""
    engine = create_async_engine(desk.system.database_url("carrel_tools"))
    try:
        async with engine.connect() as connection:
            for name, value in (("tenant_id", desk.person.tenant_id), ("user_id", desk.person.user_id)):
                await connection.execute(text(f"SELECT set_config('app.{name}', :value, true)"), {"value": value})
            yield connection
    finally:
        await engine.dispose()
