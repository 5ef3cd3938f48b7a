"""Rules over tools: what they come to, and that they hold at the moment of use."""

from __future__ import annotations

import secrets
from dataclasses import replace

import grpc
import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrel.api.tools.v1 import policy_service_pb2 as pb
from carrel.api.tools.v1 import tool_service_pb2
from carrel_tools.policy import Condition, Effect, Policy, Rule, comparable, read_rules_json, rules_json
from tests.support.expect import eventually, refused
from tests.support.forge import genuine_signer, raw
from tests.tools.administration import ALLOW, ASK, DENY, ToolAdministrator, own_decisions, rule, when
from tests.tools.conftest import Desk

Code = grpc.StatusCode


def decided(*rules: Rule, tool: str = "mail", scopes: tuple[str, ...] = (), **arguments: object) -> tuple[Effect, str]:
    decision = Policy(rules, "7").decide("ada", frozenset(scopes), tool, arguments)
    assert decision.policy_version == "7"
    return decision.effect, decision.rule_id


def test_what_no_rule_allows_is_denied():
    assert decided() == (Effect.DENY, "NO_RULE")
    assert decided(Rule("a", Effect.ALLOW, ("other",))) == (Effect.DENY, "NO_RULE")


def test_the_highest_priority_decides_and_then_the_strictest():
    rules = [Rule(effect.value, effect, ("*",)) for effect in (Effect.ALLOW, Effect.REQUIRE_APPROVAL, Effect.DENY)]
    assert decided(*rules) == (Effect.DENY, "DENY")
    assert decided(*rules[:2]) == (Effect.REQUIRE_APPROVAL, "REQUIRE_APPROVAL")
    assert decided(*rules, Rule("first", Effect.ALLOW, ("mail",), priority=1)) == (Effect.ALLOW, "first")


def test_a_rule_speaks_of_its_tools_scopes_and_users_only():
    assert decided(Rule("a", Effect.ALLOW, ("*",), scopes=frozenset({"x", "y"})), scopes=("x",))[0] is Effect.DENY
    assert decided(Rule("a", Effect.ALLOW, ("*",), scopes=frozenset({"x"})), scopes=("x", "y"))[0] is Effect.ALLOW
    assert decided(Rule("a", Effect.ALLOW, ("*",), user_ids=frozenset({"eve"})))[0] is Effect.DENY
    assert decided(Rule("a", Effect.ALLOW, ("*",), user_ids=frozenset({"eve", "ada"})))[0] is Effect.ALLOW


@pytest.mark.parametrize(
    ("pattern", "fits", "others"),
    [
        ("mail", ["mail"], ["mails", "amail", ""]),
        ("mail*", ["mail", "mail_send"], ["amail"]),
        ("*mail", ["mail", "send_mail"], ["mails"]),
        ("a*b*c", ["abc", "axbxc", "abbc"], ["ab", "acb", "abcx"]),
        ("a*a", ["aa", "aba"], ["a"]),
        ("*", ["", "x"], []),
        ("m.il", ["m.il"], ["mail"]),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_does(pattern: str, fits: list[str], others: list[str]):
    one = Rule("a", Effect.ALLOW, (pattern,))
    assert all(one.speaks_of("ada", (), name) for name in fits)
    assert not any(one.speaks_of("ada", (), name) for name in others)


@pytest.mark.parametrize(
    ("pointer", "value", "arguments", "holds"),
    [
        ("/to", "ada", {"to": "ada"}, True),
        ("/to", "ada", {"to": "Ada"}, False),
        ("/to", "ada", {}, False),
        ("/n", 1, {"n": 1.0}, True),
        ("/n", 1, {"n": True}, False),
        ("/n", None, {}, False),
        ("/n", None, {"n": None}, True),
        ("/a/1/b", [1], {"a": [0, {"b": [1.0]}]}, True),
        ("/a/01/b", [1], {"a": [0, {"b": [1]}], "x": 1}, True),
        ("/a~1b/~0", 2, {"a/b": {"~": 2}}, True),
        ("/a/9", 2, {"a": [1]}, False),
    ],
)
def test_a_condition_compares_json_values(pointer: str, value: object, arguments: dict[str, object], holds: bool):
    assert Condition(pointer, frozenset({comparable(value)})).holds(arguments) is holds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_a_condition_on_a_value_holds_for_that_value(value: object):
    assert Condition("/x", frozenset({comparable(value)})).holds({"x": value})


def test_a_tool_denied_for_some_arguments_is_seen_and_one_denied_for_all_is_not():
    some = Rule("some", Effect.DENY, ("*",), conditions=(Condition("/to", frozenset({'"eve"'})),), priority=1)
    policy = Policy([some, Rule("rest", Effect.ALLOW, ("*",))], "1")
    assert policy.view("ada", (), "mail").effect is Effect.ALLOW
    assert policy.decide("ada", (), "mail", {"to": "eve"}).rule_id == "some"
    assert Policy([replace(some, conditions=())], "1").view("ada", (), "mail").rule_id == "some"


def test_rules_are_stored_and_read_as_they_are():
    one = Rule(
        "a", Effect.DENY, ("x*", "y"), frozenset({"s"}), frozenset({"u"}), (Condition("/a", frozenset({"1"})),), 5
    )
    assert read_rules_json(rules_json([one])) == [one]


async def test_a_tenant_without_rules_has_the_built_in_ones(desk: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    policy = await admin.policy()
    assert (policy.version, [(each.rule_id, list(each.tools)) for each in policy.rules]) == (
        0,
        [("default.tools", ["*"])],
    )
    await desk.execute("echo", text="a")
    [decision] = await own_decisions(desk)
    assert (decision.effect, decision.rule_id, decision.policy_version) == (ALLOW, "default.tools", "0")


async def test_a_tenants_own_rules_hold_for_its_people_alone(desk: Desk, other: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    policy = await admin.set(rule("only.sleep", ALLOW, "sleep"))
    with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND"):
        await desk.execute("echo", text="a")
    await desk.execute("sleep", "2", seconds=0)
    await other.execute("echo", text="a")
    listed = await desk.tools.ListTools(tool_service_pb2.ListToolsRequest(), metadata=desk.person.metadata)
    assert [tool.name for tool in listed.tools] == ["sleep"]
    newest, denied = await own_decisions(desk)
    assert (newest.rule_id, newest.policy_version) == ("only.sleep", str(policy.version))
    # To the user a hidden tool is an absent one: the record does not tell which. To the administrator it does.
    assert (denied.effect, denied.rule_id) == (DENY, "")
    assert [each.rule_id for each in await admin.decisions(user_id=desk.person.user_id)] == ["only.sleep", "NO_RULE"]


async def test_a_right_taken_away_in_mid_run_is_refused_at_the_next_call_everywhere(desk: Desk, own_process):
    replica = Desk(desk.system, desk.person, (await own_process()).peer)
    replica.run_id = desk.run_id
    without_bus = Desk(desk.system, desk.person, (await own_process(NATS_URL="")).peer)
    without_bus.run_id = desk.run_id
    for number, each in enumerate((desk, replica, without_bus)):
        await each.execute("count", f"{number}", key="x")
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set(rule("rest", ALLOW), rule("no.count", DENY, "count", priority=1))

    async def denied(each: Desk) -> bool:
        try:
            await each.execute("count", secrets.token_hex(4), key="x")
        except grpc.aio.AioRpcError as error:
            return error.code() is Code.NOT_FOUND
        return False

    assert await denied(desk)
    await eventually(lambda: denied(replica), seconds=2)
    await eventually(lambda: denied(without_bus), seconds=2)


async def test_what_was_done_before_is_not_told_again_once_the_right_is_gone(desk: Desk):
    await desk.execute("echo", text="a")
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set()
    with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND"):
        await desk.execute("echo", text="a")


async def test_forbidden_arguments_are_refused_and_others_are_not(desk: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set(rule("rest", ALLOW), rule("no.secret", DENY, "echo", conditions=when("/text", '"secret"')))
    with refused(Code.PERMISSION_DENIED, "TOOL_CALL_DENIED") as refusal:
        await desk.execute("echo", "1", text="secret")
    assert refusal.error.metadata == {"tool": "echo"}
    await desk.execute("echo", "1", text="open")
    assert [(each.effect, each.rule_id) for each in await own_decisions(desk)] == [(ALLOW, "rest"), (DENY, "no.secret")]


async def test_a_trial_says_what_would_be_decided_and_leaves_no_trace(desk: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id, "admin.users")
    ada = desk.person.user_id
    assert await admin.trial(ada, "echo", '{"text": "a"}') == (ALLOW, "default.tools")
    assert await admin.trial(ada, "corpus_delete") == (DENY, "SCOPE_MISSING")
    assert (await admin.trial(ada, "corpus_delete", scopes=["corpora.admin"]))[1] != "SCOPE_MISSING"
    assert await admin.trial(ada, "no_such_tool") == (DENY, "TOOL_UNKNOWN")
    proposed = [rule("ask", ASK, "echo", user_ids=[ada])]
    assert await admin.trial(ada, "echo", rules=proposed) == (ASK, "ask")
    assert await admin.trial("somebody", "echo", rules=proposed, scopes=["tools.use"]) == (DENY, "NO_RULE")
    assert await own_decisions(desk) == [] and await admin.decisions() == []


async def test_a_trial_shows_nobody_of_another_tenant_and_nothing_to_who_may_not_ask(desk: Desk, other: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id, "admin.users")
    answers = []
    for user_id in (other.person.user_id, "user-who-never-was"):
        with refused(Code.NOT_FOUND, "USER_NOT_FOUND") as refusal:
            await admin.trial(user_id, "echo")
        answers.append(refusal.error.message.replace(user_id, "…"))
    assert answers[0] == answers[1]
    poor = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    with refused(Code.PERMISSION_DENIED, "SCOPE_MISSING"):
        await poor.trial(desk.person.user_id, "echo")


async def test_rules_are_not_changed_over_somebodys_head(desk: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    first = await admin.set(rule("a", ALLOW))
    assert first.version > 0 and first.user_id == admin.person.user_id and first.HasField("create_time")
    with refused(Code.ABORTED, "POLICY_CHANGED") as refusal:
        await admin.set(rule("b", ALLOW), expected=0)
    assert refusal.error.metadata == {"version": str(first.version)}
    assert [each.rule_id for each in (await admin.policy()).rules] == ["a"]
    second = await admin.set(rule("b", ALLOW))
    assert second.version > first.version


WRONG = {
    "rules[0].rule_id": [rule("a b", ALLOW), rule("", ALLOW), rule("x" * 65, ALLOW)],
    "rules[0].effect": [pb.ToolRule(rule_id="a", tools=["*"])],
    "rules[0].tools": [pb.ToolRule(rule_id="a", effect=ALLOW), rule("a", ALLOW, "a?"), rule("a", ALLOW, "x" * 129)],
    "rules[0].priority": [rule("a", ALLOW, priority=1001)],
    "rules[0].conditions": [
        rule("a", ALLOW, conditions=when("to", "1")),
        rule("a", ALLOW, conditions=when("/a~2", "1")),
        rule("a", ALLOW, conditions=when("/a", "nobody")),
        rule("a", ALLOW, conditions=when("/a", "NaN")),
        rule("a", ALLOW, conditions=when("/a", "[" * 100_000)),
        rule("a", ALLOW, conditions=when("/a")),
    ],
}


@pytest.mark.parametrize(("field", "wrong"), [(field, each) for field, rules in WRONG.items() for each in rules])
async def test_a_wrong_rule_is_refused_by_name(desk: Desk, field: str, wrong: pb.ToolRule):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await admin.set(wrong, expected=0)
    assert list(refusal.error.fields) == [field]
    assert (await admin.policy()).version == 0


async def test_too_many_rules_and_two_of_one_name_are_refused(desk: Desk):
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    for rules in ([rule(f"r{number}", ALLOW) for number in range(201)], [rule("a", ALLOW), rule("a", DENY)]):
        with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
            await admin.set(*rules, expected=0)


async def test_the_scope_for_it_is_needed_and_reaches_the_own_tenant_only(desk: Desk, other: Desk):
    await desk.execute("echo", text="a")
    foreign = await ToolAdministrator.of(desk.system, other.person.tenant_id)
    assert await foreign.decisions() == [] and await foreign.decisions(user_id=desk.person.user_id) == []
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set(rule("mine", ALLOW))
    assert (await foreign.policy()).version == 0
    nobody = ToolAdministrator(admin.stub, desk.person, desk.person.metadata)
    for call in (nobody.policy(), nobody.set(expected=0), nobody.trial("x", "echo"), nobody.decisions()):
        with refused(Code.PERMISSION_DENIED, "SCOPE_MISSING"):
            await call


async def test_decisions_page_and_a_token_serves_its_own_list(desk: Desk, other: Desk):
    for step in range(3):
        await desk.execute("echo", str(step), text="a")
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    request = pb.ListTenantToolDecisionsRequest(page_size=2)
    page = await admin.stub.ListTenantToolDecisions(request, metadata=admin.metadata)
    assert [each.step_id for each in page.decisions] == ["2", "1"]
    request.page_token = page.next_page_token
    rest = await admin.stub.ListTenantToolDecisions(request, metadata=admin.metadata)
    assert [each.step_id for each in rest.decisions] == ["0"] and not rest.next_page_token
    with refused(Code.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await admin.decisions(user_id=desk.person.user_id, page_token=page.next_page_token)
    with refused(Code.INVALID_ARGUMENT, "CURSOR_INVALID"):
        await own_decisions(desk, page_token=page.next_page_token)
    assert await own_decisions(other) == []


async def test_a_push_permits_nothing(desk: Desk):
    """The bus carries a number; what it stands for is read from the database."""
    admin = await ToolAdministrator.of(desk.system, desk.person.tenant_id)
    await admin.set(rule("none", DENY))
    bus = await nats.connect(desk.system.stack.service_environment("tools")["CARREL_NATS_URL"])
    for payload in (b"999999", b"", b"-1", b"x", "\u0662".encode()):
        await bus.publish("carrel.tool_policies", payload)
    await bus.drain()
    with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND"):
        await desk.execute("echo", text="a")


async def test_hidden_tools_are_no_tools_for_get_tool(desk: Desk):
    answers = []
    for name in ("corpus_delete", "corpus_absent"):
        with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND") as refusal:
            await desk.tools.GetTool(tool_service_pb2.GetToolRequest(tool=name), metadata=desk.person.metadata)
        answers.append((refusal.error.message.replace(name, "…"), refusal.error.metadata))
    assert answers[0] == answers[1]
    signer = await genuine_signer(desk.system)
    wider = replace(desk.person.context, scopes=desk.person.context.scopes | {"corpora.admin"})
    metadata = (("user-context-bin", raw(signer.sign(wider))),)
    answer = await desk.tools.GetTool(tool_service_pb2.GetToolRequest(tool="corpus_delete"), metadata=metadata)
    assert '"required": ["name"]' in answer.tool.arguments_schema_json
