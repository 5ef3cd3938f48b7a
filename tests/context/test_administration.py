"""Administration: every RPC of it tried by each role, what nobody may give, and how soon a change holds."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from carrel import Client
from carrel.api.context.v1 import context_service_pb2, context_service_pb2_grpc, revocation_service_pb2
from carrel.api.context.v1 import directory_service_pb2 as pb
from carrel.api.policy.v1 import policy_pb2
from carrel.errors import CarrelClientError
from carrel_chassis.rpc.status import from_rpc_error
from carrel_context.domain import ROLES
from tests.support.directory import directory, operator, update, with_role
from tests.support.expect import eventually, refused
from tests.support.revoking import end_of_stream, probes, refusal_of
from tests.support.system import Person, System
from tests.system.test_identity_everywhere import METHODS, Method, all_methods

ADMIN_METHODS = [m for m in METHODS if m.policy.caller == policy_pb2.CALLER_USER_OR_SERVICE]
REQUESTS = {
    f"/{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for file in (context_service_pb2, pb, revocation_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
DENIED = grpc.StatusCode.PERMISSION_DENIED


async def ask(system: System, method: Method, person: Person, **fields: Any) -> tuple[grpc.StatusCode, str]:
    """The code and reason of an answer; of a request with these fields, as far as it has them."""
    made = REQUESTS[method.path]
    request = made(**{name: value for name, value in fields.items() if name in made.DESCRIPTOR.fields_by_name})
    call = system.peer("context").channel.unary_unary(method.path)
    try:
        await call(request.SerializeToString(), metadata=person.metadata, timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code(), from_rpc_error(error).reason
    return grpc.StatusCode.OK, ""


def test_there_is_something_to_administer() -> None:
    assert len(ADMIN_METHODS) >= 14 and len(list(all_methods())) == len(METHODS)
    assert ROLES["standard"] < ROLES["power"] < ROLES["developer"] < ROLES["admin"] < ROLES["super_admin"]


@pytest.mark.parametrize("role", list(ROLES))
async def test_every_admin_method_is_closed_to_every_role_without_its_scope(system: System, role: str) -> None:
    person = await with_role(system, role)
    tried = 0
    for method in ADMIN_METHODS:
        code, reason = await ask(system, method, person, tenant_id=person.tenant_id)
        if set(method.policy.scopes) <= ROLES[role]:
            assert reason != "SCOPE_MISSING", method.path
        else:
            assert (code, reason) == (DENIED, "SCOPE_MISSING"), method.path
        tried += 1
    assert tried == len(ADMIN_METHODS)


@pytest.mark.parametrize(
    "method", [m for m in ADMIN_METHODS if "tenant_id" in REQUESTS[m.path].DESCRIPTOR.fields_by_name], ids=str
)
async def test_an_administrator_reaches_no_other_tenant(system: System, eve: Person, method: Method) -> None:
    admin = await with_role(system, "admin")
    answer = await ask(system, method, admin, tenant_id=eve.tenant_id, user_id=eve.user_id, kind=1)
    assert answer == (DENIED, "SCOPE_MISSING")
    await probes(system, eve)["context"]()  # and nothing happened to her


async def test_a_super_administrator_reaches_all_tenants(system: System, eve: Person) -> None:
    admin = await with_role(system, "super_admin")
    stub = directory(system)
    listed = await stub.ListUsers(pb.ListUsersRequest(tenant_id=eve.tenant_id), metadata=admin.metadata, timeout=5)
    assert [user.user_id for user in listed.users] == [eve.user_id]


async def test_nobody_gives_what_they_do_not_have(system: System) -> None:
    admin = await with_role(system, "admin")
    chief = await with_role(system, "super_admin", admin.tenant_id)
    stub, keys = directory(system), context_service_pb2_grpc.ContextServiceStub(system.peer("context").channel)
    tenant_id, new = admin.tenant_id, f"user-{secrets.token_hex(4)}"
    for call, request in (
        (stub.CreateUser, pb.CreateUserRequest(tenant_id=tenant_id, user_id=new, role="super_admin")),
        (stub.CreateUser, pb.CreateUserRequest(tenant_id=tenant_id, user_id=new, granted_scopes=["admin.tenants"])),
        (stub.UpdateUser, pb.UpdateUserRequest(tenant_id=tenant_id, user_id=admin.user_id, role="super_admin")),
        (stub.UpdateUser, pb.UpdateUserRequest(tenant_id=tenant_id, user_id=chief.user_id, disabled=True)),
        (stub.UpdateUser, pb.UpdateUserRequest(tenant_id=tenant_id, user_id=chief.user_id, role="standard")),
        (keys.CreateApiKey, context_service_pb2.CreateApiKeyRequest(tenant_id=tenant_id, user_id=chief.user_id)),
    ):
        with refused(DENIED, "WIDENING_REFUSED"):
            await call(request, metadata=admin.metadata, timeout=5)  # type: ignore[operator]
    with refused(grpc.StatusCode.NOT_FOUND, "USER_NOT_FOUND"):
        await stub.GetUser(pb.GetUserRequest(tenant_id=tenant_id, user_id=new), metadata=admin.metadata, timeout=5)


async def test_users_are_created_listed_by_page_and_changed(system: System) -> None:
    admin = await with_role(system, "admin")
    stub, tenant_id = directory(system), admin.tenant_id
    for number in range(4):
        request = pb.CreateUserRequest(tenant_id=tenant_id, user_id=f"a-{number}", role="power")
        made = (await stub.CreateUser(request, metadata=admin.metadata, timeout=5)).user
        assert set(made.scopes) == ROLES["power"]
    with refused(grpc.StatusCode.ABORTED, "USER_EXISTS"):
        await stub.CreateUser(request, metadata=admin.metadata, timeout=5)
    seen, token = [], ""
    while True:
        page = await stub.ListUsers(
            pb.ListUsersRequest(tenant_id=tenant_id, page_size=2, page_token=token), metadata=admin.metadata, timeout=5
        )
        seen += [user.user_id for user in page.users]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["a-0", "a-1", "a-2", "a-3", admin.user_id]
    tenants = (
        await stub.ListTenants(pb.ListTenantsRequest(page_size=500), metadata=operator(system), timeout=5)
    ).tenants
    assert tenant_id in {tenant.tenant_id for tenant in tenants}
    identities = await stub.ListServiceIdentities(
        pb.ListServiceIdentitiesRequest(), metadata=operator(system), timeout=5
    )
    assert {"gateway", "operator", "tool-dispatch"} <= {entry.service for entry in identities.identities}


async def test_a_grant_and_a_removal_hold_in_the_next_context(system: System, ada: Person) -> None:
    user = await update(
        system,
        ada,
        granted_scopes=pb.ScopeList(scopes=["corpora.admin"]),
        removed_scopes=pb.ScopeList(scopes=["runs.start", "tools.use"]),
    )
    expected = (ROLES["standard"] | {"corpora.admin"}) - {"runs.start", "tools.use"}
    assert set(user.scopes) == expected
    assert (await system.person(ada.tenant_id, ada.user_id)).context.scopes == expected
    user = await update(system, ada, removed_scopes=pb.ScopeList(scopes=["tools.use"]))
    assert set(user.removed_scopes) == {"tools.use"} and "runs.start" in user.scopes


async def test_a_lower_role_holds_at_once_for_what_was_issued_before(system: System) -> None:
    admin = await with_role(system, "admin")
    stub = directory(system)
    request = pb.ListUsersRequest(tenant_id=admin.tenant_id)
    await stub.ListUsers(request, metadata=admin.metadata, timeout=5)
    await update(system, admin, role="standard")
    with refused(grpc.StatusCode.UNAUTHENTICATED, "CONTEXT_REVOKED"):
        await stub.ListUsers(request, metadata=admin.metadata, timeout=5)
    again = await system.person(admin.tenant_id, admin.user_id)
    with refused(DENIED, "SCOPE_MISSING"):
        await stub.ListUsers(request, metadata=again.metadata, timeout=5)


async def test_a_change_of_rights_does_not_end_what_goes_on(system: System, ada: Person) -> None:
    """A run of a user whose role changes goes on under a new context."""
    async with Client(system.addresses["gateway"], ada.token) as client:
        run = await client.start_run("counting", {"calls": 8, "seconds": 0.1})
        await update(system, ada, role="power")
        types = [event.type async for event in client.watch_run(run.run_id)]
    assert types[-1] == "agent_completed"


async def test_a_disabled_user_is_out_and_an_enabled_one_is_in_again(system: System, ada: Person) -> None:
    opened = asyncio.Event()
    reading = asyncio.create_task(end_of_stream(system, ada, opened))
    await opened.wait()
    assert (await update(system, ada, disabled=True)).disabled
    assert (await reading)[1].reason == "CONTEXT_REVOKED"
    for probe in probes(system, ada).values():
        assert (await refusal_of(probe))[1].reason in ("CONTEXT_REVOKED", "CREDENTIAL_INVALID")
    await update(system, ada, disabled=False)
    again = await system.person(ada.tenant_id, ada.user_id)

    async def in_again() -> bool:
        try:
            for probe in probes(system, again).values():
                await probe()
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(in_again, seconds=2)


async def test_a_revoked_api_key_opens_nothing_any_more(system: System, ada: Person) -> None:
    text = await system.api_key(ada)
    stub = directory(system)
    async with Client(system.addresses["gateway"], text) as client:
        await client.list_agents()
        owner = {"tenant_id": ada.tenant_id, "user_id": ada.user_id}
        [key] = (await stub.ListApiKeys(pb.ListApiKeysRequest(**owner), metadata=operator(system), timeout=5)).api_keys
        assert key.label == "for a test" and not key.HasField("revoke_time")
        request = pb.RevokeApiKeyRequest(**owner, api_key_id=key.api_key_id)
        revoked = (await stub.RevokeApiKey(request, metadata=operator(system), timeout=5)).api_key
        assert revoked.HasField("revoke_time")

        async def shut() -> bool:
            try:
                await client.list_agents()
            except CarrelClientError as error:
                return error.reason in ("CREDENTIAL_INVALID", "CONTEXT_REVOKED")
            return False

        await eventually(shut, seconds=2)
    with refused(grpc.StatusCode.NOT_FOUND, "API_KEY_NOT_FOUND"):
        request.api_key_id = "key-of-nobody"
        await stub.RevokeApiKey(request, metadata=operator(system), timeout=5)


@pytest.mark.parametrize(
    ("method", "message", "field"),
    [
        ("CreateUser", pb.CreateUserRequest(tenant_id="", user_id="a"), "tenant_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id=" none ", user_id="a"), "tenant_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="None"), "user_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="x" * 1_000_000), "user_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="a\nb"), "user_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="a\0b"), "user_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="<script>"), "user_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="аda"), "user_id"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="a", role="emperor"), "role"),
        ("CreateUser", pb.CreateUserRequest(tenant_id="acme", user_id="a", granted_scopes=["x"]), "granted_scopes"),
        ("ListUsers", pb.ListUsersRequest(tenant_id="acme", page_size=501), "page_size"),
        ("ListUsers", pb.ListUsersRequest(tenant_id="acme", page_token="x"), "page_token"),
        ("RevokeApiKey", pb.RevokeApiKeyRequest(tenant_id="acme", user_id="a", api_key_id=""), "api_key_id"),
    ],
)
async def test_a_wrong_request_names_its_field(system: System, method: str, message: Any, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await getattr(directory(system), method)(message, metadata=operator(system), timeout=5)
    error = from_rpc_error(raised.value)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.fields.keys() == {field}
