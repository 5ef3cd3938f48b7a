"""The service of policies on the wire: messages in, messages out. It knows no SQL and no rule."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.tools.v1 import policy_service_pb2 as pb
from carrel.api.tools.v1 import policy_service_pb2_grpc as rpc
from carrel_chassis.errors import invalid
from carrel_chassis.rpc.call import caller, current_call
from carrel_chassis.rpc.channel import Peer
from carrel_tools.audit import Audit, ToolDecision
from carrel_tools.clients import Directory
from carrel_tools.policy import Condition, Effect, Rule, comparable
from carrel_tools.policy_admin import PolicyOperations, StoredPolicy


class ToolPolicyServicer(rpc.ToolPolicyServiceServicer):
    """carrel.api.tools.v1.ToolPolicyService. `context` is the peer that knows people."""

    def __init__(self, operations: PolicyOperations, audit: Audit, context: Peer) -> None:
        self._operations = operations
        self._audit = audit
        self._context = context

    async def GetToolPolicy(self, request: pb.GetToolPolicyRequest, context: Any) -> pb.GetToolPolicyResponse:
        return pb.GetToolPolicyResponse(policy=_policy(await self._operations.get(caller().tenant_id)))

    async def SetToolPolicy(self, request: pb.SetToolPolicyRequest, context: Any) -> pb.SetToolPolicyResponse:
        stored = await self._operations.set(caller(), _rules(request.rules), request.expected_version)
        return pb.SetToolPolicyResponse(policy=_policy(stored))

    async def TestToolPolicy(self, request: pb.TestToolPolicyRequest, context: Any) -> pb.TestToolPolicyResponse:
        trial = await self._operations.test(
            caller(),
            request.user_id,
            request.tool,
            request.arguments_json,
            _rules(request.rules),
            frozenset(request.scopes),
            Directory(self._context, current_call().signed_context),
        )
        return pb.TestToolPolicyResponse(
            effect=_effect(trial.decision.effect),
            rule_id=trial.decision.rule_id,
            policy_version=trial.decision.policy_version,
            visible=trial.visible,
        )

    async def ListToolDecisions(
        self, request: pb.ListToolDecisionsRequest, context: Any
    ) -> pb.ListToolDecisionsResponse:
        decisions, token = await self._audit.own_page(
            caller(), current_call().call_id, request.page_size, request.page_token
        )
        return pb.ListToolDecisionsResponse(decisions=map(_decision, decisions), next_page_token=token)

    async def ListTenantToolDecisions(
        self, request: pb.ListTenantToolDecisionsRequest, context: Any
    ) -> pb.ListTenantToolDecisionsResponse:
        decisions, token = await self._audit.tenant_page(
            caller().tenant_id, request.user_id, request.page_size, request.page_token
        )
        return pb.ListTenantToolDecisionsResponse(decisions=map(_decision, decisions), next_page_token=token)


def _effect(effect: Effect) -> pb.ToolEffect.ValueType:
    return pb.ToolEffect.Value(f"TOOL_EFFECT_{effect.value}")


def _rules(messages: Iterable[pb.ToolRule]) -> list[Rule]:
    return [_rule(message, number) for number, message in enumerate(messages)]


def _rule(message: pb.ToolRule, number: int) -> Rule:
    effects = {_effect(effect): effect for effect in Effect}
    if message.effect not in effects:
        raise invalid(f"rules[{number}].effect", "effect must be ALLOW, DENY or REQUIRE_APPROVAL.")
    return Rule(
        rule_id=message.rule_id,
        effect=effects[message.effect],
        tools=tuple(message.tools),
        scopes=frozenset(message.scopes),
        user_ids=frozenset(message.user_ids),
        conditions=tuple(_condition(each, number) for each in message.conditions),
        priority=message.priority,
    )


def _condition(message: pb.ArgumentCondition, number: int) -> Condition:
    try:
        values = frozenset(comparable(json.loads(value)) for value in message.values_json)
        "".join(values).encode()
    except (ValueError, RecursionError):
        raise invalid(
            f"rules[{number}].conditions", "values_json must be JSON values; a text stands in quotes."
        ) from None
    return Condition(message.pointer, values)


def _policy(stored: StoredPolicy) -> pb.ToolPolicy:
    message = pb.ToolPolicy(rules=map(_rule_message, stored.rules), version=stored.version, user_id=stored.changed_by)
    if stored.create_time is not None:
        message.create_time.FromDatetime(stored.create_time)
    return message


def _rule_message(rule: Rule) -> pb.ToolRule:
    conditions = [pb.ArgumentCondition(pointer=c.pointer, values_json=sorted(c.values)) for c in rule.conditions]
    return pb.ToolRule(
        rule_id=rule.rule_id,
        effect=_effect(rule.effect),
        tools=rule.tools,
        scopes=sorted(rule.scopes),
        user_ids=sorted(rule.user_ids),
        conditions=conditions,
        priority=rule.priority,
    )


def _decision(decision: ToolDecision) -> pb.ToolDecision:
    create_time = Timestamp()
    create_time.FromDatetime(decision.create_time)
    return pb.ToolDecision(
        tool_call_id=decision.tool_call_id,
        user_id=decision.user_id,
        run_id=decision.run_id,
        step_id=decision.step_id,
        agent=decision.agent,
        tool=decision.tool,
        effect=_effect(decision.effect),
        rule_id=decision.rule_id,
        policy_version=decision.policy_version,
        approval_id=decision.approval_id,
        create_time=create_time,
    )
