"""What an administrator of tools asks of tool-dispatch, rules, trials and the record of decisions; and what a user consents to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.tools.v1 import policy_service_pb2 as pb
from carrel.api.tools.v1 import policy_service_pb2_grpc as rpc
from carrel.api.tools.v1 import tool_service_pb2
from tests.support.forge import genuine_signer, raw
from tests.support.system import Person, System
from tests.tools.conftest import Desk

ALLOW = pb.TOOL_EFFECT_ALLOW
DENY = pb.TOOL_EFFECT_DENY
ASK = pb.TOOL_EFFECT_REQUIRE_APPROVAL


def rule(rule_id: str, effect: pb.ToolEffect.ValueType, *tools: str, **more: Any) -> pb.ToolRule:
    """A rule on these tools; on all when none are named."""
    return pb.ToolRule(rule_id=rule_id, effect=effect, tools=tools or ("*",), **more)


def when(pointer: str, *values_json: str) -> list[pb.ArgumentCondition]:
    """The condition that an argument is one of these."""
    return [pb.ArgumentCondition(pointer=pointer, values_json=values_json)]


class ToolAdministrator:
    """A person of the tenant who administers its tools."""

    def __init__(self, stub: rpc.ToolPolicyServiceAsyncStub, person: Person, metadata: Any) -> None:
        self.stub = stub
        self.person = person
        self.metadata = metadata

    @classmethod
    async def of(cls, system: System, tenant_id: str, *scopes: str) -> ToolAdministrator:
        """A new person of this tenant with the scope "admin.tools", and these."""
        person = await system.person(tenant_id)
        wider = replace(person.context, scopes=person.context.scopes | {"admin.tools", *scopes})
        signed = raw((await genuine_signer(system)).sign(wider))
        stub: rpc.ToolPolicyServiceAsyncStub = rpc.ToolPolicyServiceStub(system.peer("tool-dispatch").channel)
        return cls(stub, person, (("user-context-bin", signed),))

    async def policy(self) -> pb.ToolPolicy:
        """The rules in effect."""
        return (await self.stub.GetToolPolicy(pb.GetToolPolicyRequest(), metadata=self.metadata)).policy

    async def set(self, *rules: pb.ToolRule, expected: int | None = None) -> pb.ToolPolicy:
        """Replaces the rules, whatever they are, unless a version is expected."""
        version = (await self.policy()).version if expected is None else expected
        request = pb.SetToolPolicyRequest(rules=rules, expected_version=version)
        return (await self.stub.SetToolPolicy(request, metadata=self.metadata)).policy

    async def trial(self, user_id: str, tool: str, arguments_json: str = "", **more: Any) -> tuple[int, str]:
        """What would be decided, and by which rule."""
        request = pb.TestToolPolicyRequest(user_id=user_id, tool=tool, arguments_json=arguments_json, **more)
        answer = await self.stub.TestToolPolicy(request, metadata=self.metadata)
        return answer.effect, answer.rule_id

    async def decisions(self, **filters: Any) -> Sequence[pb.ToolDecision]:
        """The tenant's, one page."""
        request = pb.ListTenantToolDecisionsRequest(**filters)
        return (await self.stub.ListTenantToolDecisions(request, metadata=self.metadata)).decisions


async def own_decisions(desk: Desk, **page: Any) -> Sequence[pb.ToolDecision]:
    """The desk's person's own, one page."""
    stub: rpc.ToolPolicyServiceAsyncStub = rpc.ToolPolicyServiceStub(desk.peer.channel)
    request = pb.ListToolDecisionsRequest(**page)
    return (await stub.ListToolDecisions(request, metadata=desk.person.metadata)).decisions


def after(seconds: float) -> Timestamp:
    """So long from now."""
    message = Timestamp()
    message.FromNanoseconds(int((time.time() + seconds) * 1e9))
    return message


def consent(desk: Desk, digest: str, **changes: Any) -> tool_service_pb2.Approval:
    """A good consent of the desk's person, but for the changes."""
    values = {
        "approval_id": f"wait-{secrets.token_hex(4)}",
        "arguments_digest": digest,
        "user_id": desk.person.user_id,
        "approve_time": after(-1),
        "expire_time": after(60),
    }
    return tool_service_pb2.Approval(**(values | changes))
