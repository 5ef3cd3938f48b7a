"""`carrel users ...`: the people of a tenant, their roles, and what each may do beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from carrel_cli.administration import Administration, Tenant, User, administering, as_document
from carrel_cli.command import Local, local_command

if TYPE_CHECKING:
    from carrel.api.context.v1 import directory_service_pb2 as pb
    from carrel.api.context.v1 import directory_service_pb2_grpc as rpc

app = typer.Typer(help="The people of a tenant, their roles and rights.", no_args_is_help=True)

Role = Annotated[str, typer.Option("--role", help="standard, power, developer, admin or super_admin.")]
Scopes = Annotated[list[str] | None, typer.Option(metavar="SCOPE", help="May be repeated.", show_default=False)]


def directory(administration: Administration) -> rpc.DirectoryServiceAsyncStub:
    """The directory of tenants and people."""
    from carrel.api.context.v1.directory_service_pb2_grpc import DirectoryServiceStub

    stub: rpc.DirectoryServiceAsyncStub = DirectoryServiceStub(administration.channel)
    return stub


@app.command("create")
@local_command
async def create(local: Local, user: User, tenant: Tenant, role: Role = "standard", grant: Scopes = None) -> None:
    """Enters a user with a role."""
    from carrel.api.context.v1 import directory_service_pb2 as pb

    request = pb.CreateUserRequest(tenant_id=tenant, user_id=user, role=role, granted_scopes=grant or [])
    async with administering(local) as administration:
        made = await administration.ask(directory(administration).CreateUser, request)
    _show(local, made.user)


@app.command("list")
@local_command
async def list_(local: Local, tenant: Tenant) -> None:
    """Lists the users of a tenant."""
    from carrel.api.context.v1 import directory_service_pb2 as pb
    from carrel_cli.event_lines import moment

    request = pb.ListUsersRequest(tenant_id=tenant, page_size=500)
    async with administering(local) as administration:
        found = await administration.all(directory(administration).ListUsers, request, "users")
    local.out.document({"users": [as_document(user) for user in found]})
    rows = [(user.user_id, user.role, _state(user), moment(user.create_time)) for user in found]
    local.out.table(["USER", "ROLE", "STATE", "ENTERED"], rows, f"The tenant {tenant} has no users yet.")


@app.command("show")
@local_command
async def show(local: Local, user: User, tenant: Tenant) -> None:
    """Shows a user and what the user may do now."""
    from carrel.api.context.v1 import directory_service_pb2 as pb

    async with administering(local) as administration:
        request = pb.GetUserRequest(tenant_id=tenant, user_id=user)
        found = await administration.ask(directory(administration).GetUser, request)
    _show(local, found.user)


@app.command("change")
@local_command
async def change(
    local: Local,
    user: User,
    tenant: Tenant,
    role: Annotated[str | None, typer.Option(help="The new role.", show_default=False)] = None,
    grant: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help="Gives it, whatever the role says.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help="Takes it, whatever the role says.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="First drops all grants and removals.")] = False,
) -> None:
    """Changes a user's role and rights; it holds everywhere within 2 seconds."""
    from carrel.api.context.v1 import directory_service_pb2 as pb

    async with administering(local) as administration:
        stub = directory(administration)
        before = (await administration.ask(stub.GetUser, pb.GetUserRequest(tenant_id=tenant, user_id=user))).user
        granted = set() if reset else set(before.granted_scopes)
        removed = set() if reset else set(before.removed_scopes)
        granted, removed = (
            (granted | set(grant or ())) - set(remove or ()),
            (removed | set(remove or ())) - set(grant or ()),
        )
        request = pb.UpdateUserRequest(
            tenant_id=tenant,
            user_id=user,
            role=role,
            granted_scopes=pb.ScopeList(scopes=sorted(granted)),
            removed_scopes=pb.ScopeList(scopes=sorted(removed)),
        )
        after = await administration.ask(stub.UpdateUser, request)
    _show(local, after.user)


@app.command("disable")
@local_command
async def disable(local: Local, user: User, tenant: Tenant) -> None:
    """Shuts a user out: sessions, streams and runs end within 2 seconds."""
    await _set_disabled(local, user, tenant, True)


@app.command("enable")
@local_command
async def enable(local: Local, user: User, tenant: Tenant) -> None:
    """Lets a disabled user in again."""
    await _set_disabled(local, user, tenant, False)


@app.command("tenants")
@local_command
async def tenants(local: Local) -> None:
    """Lists the tenants."""
    from carrel.api.context.v1 import directory_service_pb2 as pb
    from carrel_cli.event_lines import moment

    async with administering(local) as administration:
        request = pb.ListTenantsRequest(page_size=500)
        found = await administration.all(directory(administration).ListTenants, request, "tenants")
    local.out.document({"tenants": [as_document(tenant) for tenant in found]})
    rows = [(tenant.tenant_id, moment(tenant.create_time)) for tenant in found]
    local.out.table(["TENANT", "ENTERED"], rows, "No tenants yet.")


async def _set_disabled(local: Local, user: str, tenant: str, disabled: bool) -> None:
    from carrel.api.context.v1 import directory_service_pb2 as pb

    async with administering(local) as administration:
        request = pb.UpdateUserRequest(tenant_id=tenant, user_id=user, disabled=disabled)
        found = await administration.ask(directory(administration).UpdateUser, request)
    _show(local, found.user)


def _show(local: Local, user: pb.User) -> None:
    local.out.document({"user": as_document(user)})
    facts: dict[str, Any] = {
        "user": user.user_id,
        "tenant": user.tenant_id,
        "role": user.role,
        "state": _state(user),
        "granted": " ".join(user.granted_scopes) or "-",
        "removed": " ".join(user.removed_scopes) or "-",
        "may": " ".join(user.scopes) or "nothing",
    }
    local.out.table(["", ""], list(facts.items()), "")


def _state(user: pb.User) -> str:
    if user.disabled:
        return "disabled"
    return "revoked" if user.revoked else "active"
