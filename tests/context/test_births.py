"""The ways a context is born, over real gRPC: session, API key, run, child, service, scheduled job; and all that may not be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel.api.context.v1.user_context_pb2 import ResourceLimits, SignedUserContext
from carrel_chassis.identity import MAX_DEPTH, UserContext
from carrel_chassis.signing import decode_context
from tests.support.expect import refused
from tests.support.forge import forgeries, genuine_signer, raw
from tests.support.revoking import SESSION, revoke
from tests.support.system import Person, System


async def issue(system: System, asker: str, **principal: Any) -> UserContext:
    peer = system.peer("context", asker)
    stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(peer.channel)
    request = pb.IssueContextRequest(**{"request_id": "request-1", **principal})
    answer = await stub.IssueContext(request, metadata=peer.metadata(), timeout=5)
    return decode_context(answer.signed_context.context)


async def exchange(system: System, signed: bytes, **wanted: Any) -> bytes:
    stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(system.peer("context").channel)
    request = pb.ExchangeContextRequest(**wanted)
    answer = await stub.ExchangeContext(request, metadata=(("user-context-bin", signed),), timeout=5)
    return answer.signed_context.SerializeToString(deterministic=True)


def read(signed: bytes) -> UserContext:
    return decode_context(SignedUserContext.FromString(signed).context)


def job_of(signed: bytes) -> pb.ScheduledJob:
    return pb.ScheduledJob(grant=SignedUserContext.FromString(signed))


async def test_a_scheduled_job_is_of_the_session_it_was_made_in_and_can_do_no_more(system: System, ada: Person) -> None:
    made_with = await exchange(system, ada.signed_context, scopes=["runs.start", "runs.read"], thread_id="thread-1")
    user = await issue(system, "agent-execution", scheduled_job=job_of(made_with))
    assert (user.owner, user.session_id, user.thread_id) == (ada.context.owner, ada.context.session_id, "thread-1")
    assert user.scopes == {"runs.start", "runs.read"} and user.parent_context_id == read(made_with).context_id


async def test_of_an_old_schedule_the_job_still_gets_a_context_until_its_user_is_revoked(
    system: System, ada: Person
) -> None:
    signer = await genuine_signer(system)
    year_old = replace(ada.context, issue_time=ada.context.issue_time - 4e7, expire_time=ada.context.expire_time - 4e7)
    job = job_of(raw(signer.sign(year_old)))
    assert (await issue(system, "agent-execution", scheduled_job=job)).expire_time > ada.context.issue_time
    await revoke(system, ada, SESSION, ada.context.session_id)
    with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED"):
        await issue(system, "agent-execution", scheduled_job=job)


@pytest.mark.parametrize("name", ["another user's name", "another context's signature", "forged key", "unknown key"])
async def test_nobody_gets_a_job_from_a_forged_grant(system: System, ada: Person, name: str) -> None:
    forged, reason = forgeries(await genuine_signer(system), ada)[name]
    with refused(grpc.StatusCode.UNAUTHENTICATED, reason):
        await issue(system, "agent-execution", scheduled_job=job_of(forged))


async def test_a_service_is_a_user_of_its_own_in_one_tenant(system: System, ada: Person) -> None:
    user = await issue(system, "tool-dispatch", service=pb.ServicePrincipal(tenant_id=ada.tenant_id))
    assert (user.tenant_id, user.user_id) == (ada.tenant_id, "service.tool-dispatch")


@pytest.mark.parametrize("asker", ["agent-execution", "tool-dispatch", "event-stream"])
async def test_only_the_gateway_asks_for_people(system: System, ada: Person, asker: str) -> None:
    user = pb.AuthenticatedUser(tenant_id=ada.tenant_id, user_id=ada.user_id, session_id="s-1")
    for principal in ({"user": user}, {"api_key": "ck_x.y"}):
        with refused(grpc.StatusCode.PERMISSION_DENIED, "SERVICE_NOT_ALLOWED"):
            await issue(system, asker, **principal)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "SERVICE_NOT_ALLOWED"):
        await issue(system, "gateway", scheduled_job=job_of(ada.signed_context))


async def test_a_child_is_narrower_and_names_its_parent(system: System, ada: Person) -> None:
    signed = await exchange(
        system, ada.signed_context, scopes=["runs.read"], audiences=["context"], limits=ResourceLimits(open_streams=2)
    )
    child, parent = read(signed), ada.context
    assert (child.owner, child.scopes, child.audiences) == (parent.owner, {"runs.read"}, {"context"})
    assert (child.depth, child.parent_context_id) == (1, parent.context_id)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "WIDENING_REFUSED") as refusal:
        await exchange(system, signed, scopes=["runs.read", "runs.start"])
    assert refusal.error.metadata["field"] == "scopes"
    with refused(grpc.StatusCode.PERMISSION_DENIED, "WIDENING_REFUSED") as refusal:
        await exchange(system, signed, limits=ResourceLimits(open_streams=3))
    assert refusal.error.metadata["field"] == "limits.open_streams"
    with refused(grpc.StatusCode.PERMISSION_DENIED, "WIDENING_REFUSED") as refusal:
        await exchange(system, signed, expire_time=Timestamp(seconds=int(parent.expire_time) + 10))
    assert refusal.error.metadata["field"] == "expire_time"


async def test_a_chain_is_at_most_ten_deep(system: System, ada: Person) -> None:
    signed = ada.signed_context
    for _ in range(MAX_DEPTH):
        signed = await exchange(system, signed)
    with refused(grpc.StatusCode.PERMISSION_DENIED, "WIDENING_REFUSED") as refusal:
        await exchange(system, signed)
    assert refusal.error.metadata["field"] == "depth"


BAD_IDS = {
    "a megabyte": "x" * 1_000_000,
    "129 characters": "x" * 129,
    "newline": "a\nb",
    "markup": "<script>alert(1)</script>",
    "NUL": "a\0b",
    "blanks": " none ",
    "mixed case": "NoNe",
    "registry": "Registry",
    "undefined": "UNDEFINED",
    "Cyrillic": "аdmin",
    "full width": "ａｄａ",
    "right to left": "ada\u202e",
    "empty": "",
    "zero": "0",
    "punctuated": "-null-",
}


@pytest.mark.parametrize("bad", list(BAD_IDS.values()), ids=list(BAD_IDS))
@pytest.mark.parametrize("field", ["tenant_id", "user_id", "user.session_id", "request_id"])
async def test_a_bad_id_is_refused_by_its_name(system: System, field: str, bad: str) -> None:
    user = {"tenant_id": "acme", "user_id": "ada", "session_id": "session-1"}
    request = {"request_id": "request-1"}
    if field == "request_id":
        request[field] = bad
    else:
        user[field.rpartition(".")[2]] = bad
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ID") as refusal:
        await issue(system, "operator", user=pb.AuthenticatedUser(**user), **request)
    assert refusal.error.fields.keys() == {field}


async def test_a_request_for_nobody_is_refused(system: System) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await issue(system, "operator")
    assert refusal.error.fields.keys() == {"principal"}


@pytest.mark.parametrize("seconds", [0, -1, 301])
async def test_a_life_of_more_than_five_minutes_is_refused(system: System, ada: Person, seconds: int) -> None:
    user = pb.AuthenticatedUser(tenant_id=ada.tenant_id, user_id=ada.user_id, session_id="s-1")
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await issue(system, "operator", user=user, lifetime={"seconds": seconds})
    assert refusal.error.fields.keys() == {"lifetime"}
