"""InspectContext: each check is really made, so each fault of a context costs exactly its own points."""

from __future__ import annotations

import time
from dataclasses import replace

import grpc
import pytest

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel.api.context.v1 import directory_service_pb2, user_context_pb2
from carrel_context.inspection import WEIGHTS
from tests.support.directory import update, with_role
from tests.support.expect import refused
from tests.support.forge import forgeries, genuine_signer, raw
from tests.support.revoking import SESSION, revoke
from tests.support.system import Person, System


def contexts(system: System) -> rpc.ContextServiceAsyncStub:
    stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(system.peer("context").channel)
    return stub


async def inspect(system: System, signed: bytes, audience: str = "") -> tuple[int, dict[str, str]]:
    """The score, and the reasons of the checks that did not pass; "" for those that could not be made."""
    request = pb.InspectContextRequest(signed_context=signed, audience=audience)
    answer = await contexts(system).InspectContext(request, metadata=system.peer("context").metadata(), timeout=5)
    assert {check.name: check.weight for check in answer.checks} == WEIGHTS
    assert all(check.message for check in answer.checks)
    assert answer.score == sum(check.weight for check in answer.checks if check.outcome == pb.CHECK_OUTCOME_PASSED)
    return answer.score, {
        check.name: check.reason for check in answer.checks if check.outcome != pb.CHECK_OUTCOME_PASSED
    }


def test_all_checks_together_are_a_hundred() -> None:
    assert sum(WEIGHTS.values()) == 100


async def test_a_good_context_has_a_hundred(system: System, ada: Person) -> None:
    assert await inspect(system, ada.signed_context) == (100, {})
    assert await inspect(system, ada.signed_context, "event-stream") == (100, {})
    assert await inspect(system, await system.run_context(ada, "run-of-an-inspection")) == (100, {})


async def test_each_forgery_is_found_for_what_it_is(system: System, ada: Person) -> None:
    for name, (forged, reason) in forgeries(await genuine_signer(system), ada).items():
        score, found = await inspect(system, forged, "tool-dispatch")
        assert score < 100 and reason in found.values(), name


async def test_each_fault_costs_its_own_points(system: System, ada: Person) -> None:
    signer, user, now = await genuine_signer(system), ada.context, time.time()

    async def of(**changes: object) -> tuple[int, dict[str, str]]:
        return await inspect(system, raw(signer.sign(replace(user, **changes))), "event-stream")  # type: ignore[arg-type]

    assert await of(issue_time=now - 900, expire_time=now - 600) == (85, {"times": "CONTEXT_EXPIRED"})
    assert await of(audiences=frozenset({"elsewhere"})) == (90, {"audience": "AUDIENCE_MISMATCH"})
    assert await of(depth=3) == (95, {"depth": "CONTEXT_MALFORMED"})
    assert await of(scopes=user.scopes | {"admin.tenants"}) == (90, {"permissions": "SCOPE_MISSING"})
    score, found = await of(user_id="nobody-we-know")
    assert (score, found) == (75, {"session": "CREDENTIAL_INVALID", "permissions": ""})


@pytest.mark.parametrize("bad", ["None", " none ", "registry", "a\nb", "<b>", "аda", "x" * 200])
async def test_a_placeholder_is_named(system: System, ada: Person, bad: str) -> None:
    """Nobody can sign such a context; a verifier that met one would refuse it, and so says the report."""
    good = user_context_pb2.SignedUserContext.FromString(ada.signed_context)
    context = user_context_pb2.UserContext.FromString(good.context)
    context.user_id = bad
    good.context = context.SerializeToString(deterministic=True)
    _, found = await inspect(system, raw(good))
    assert found["placeholders"] == "INVALID_ID"
    assert found["session"] == found["permissions"] == ""


async def test_revocation_disabling_and_lost_rights_are_seen(system: System, ada: Person, eve: Person) -> None:
    await revoke(system, ada, SESSION, ada.context.session_id)
    assert (await inspect(system, ada.signed_context))[1] == {"session": "CONTEXT_REVOKED", "permissions": ""}
    removed = directory_service_pb2.ScopeList(scopes=["tools.use"])
    await update(system, eve, removed_scopes=removed)
    assert (await inspect(system, eve.signed_context))[1] == {"permissions": "SCOPE_MISSING"}
    await update(system, eve, role="power")
    assert (await inspect(system, eve.signed_context))[1] == {"permissions": "CONTEXT_REVOKED"}
    await update(system, eve, disabled=True)
    assert (await inspect(system, eve.signed_context))[1]["session"] == "CREDENTIAL_INVALID"


async def test_a_developer_is_told_nothing_of_another_tenant(system: System, eve: Person) -> None:
    developer = await with_role(system, "developer")
    request = pb.InspectContextRequest(signed_context=eve.signed_context)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"):
        await contexts(system).InspectContext(request, metadata=developer.metadata, timeout=5)
    own = pb.InspectContextRequest(signed_context=developer.signed_context)
    assert (await contexts(system).InspectContext(own, metadata=developer.metadata, timeout=5)).score == 100


async def test_no_bytes_break_it(system: System) -> None:
    for junk in (b"", b"\xff" * 10, b"\x00" * 3000, bytes(range(256))):
        assert (await inspect(system, junk))[0] == 0 or junk == b""
