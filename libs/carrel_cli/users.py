"""`carrel users ...`: the people of a tenant, their roles, and what each may do beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from carrel_cli.administration import Tenant, User, as_document
from carrel_cli.command import Office, admin_command

if TYPE_CHECKING:
    from carrel.api.context.v1 import directory_service_pb2 as pb

app = typer.Typer(help="The people of a tenant, their roles and rights.", no_args_is_help=True)

Role = Annotated[str, typer.Option("--role", help="standard, power, developer, admin or super_admin.")]
Scopes = Annotated[list[str] | None, typer.Option(metavar="SCOPE", help="May be repeated.", show_default=False)]


@app.command("create")
@admin_command
async def create(office: Office, user: User, tenant: Tenant, role: Role = "standard", grant: Scopes = None) -> None:
    """Enters a user with a role."""
    _show(office, await office.admin.create_user(tenant, user, role, grant or ()))


@app.command("list")
@admin_command
async def list_(office: Office, tenant: Tenant) -> None:
    """Lists the users of a tenant."""
    from carrel_cli.event_lines import moment

    found = [user async for user in office.admin.list_users(tenant, page_size=500)]
    office.out.document({"users": [as_document(user) for user in found]})
    rows = [(user.user_id, user.role, _state(user), moment(user.create_time)) for user in found]
    office.out.table(["USER", "ROLE", "STATE", "ENTERED"], rows, f"The tenant {tenant} has no users yet.")


@app.command("show")
@admin_command
async def show(office: Office, user: User, tenant: Tenant) -> None:
    """Shows a user and what the user may do now."""
    _show(office, await office.admin.get_user(tenant, user))


@app.command("change")
@admin_command
async def change(
    office: Office,
    user: User,
    tenant: Tenant,
    role: Annotated[str | None, typer.Option(help="The new role.", show_default=False)] = None,
    grant: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help="Gives it, whatever the role says.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="SCOPE", help="Takes it, whatever the role says.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="First drops all grants and removals.")] = False,
) -> None:
    """Changes a user's role and rights; it holds everywhere within 2 seconds."""
    before = await office.admin.get_user(tenant, user)
    granted = set() if reset else set(before.granted_scopes)
    removed = set() if reset else set(before.removed_scopes)
    granted, removed = (
        (granted | set(grant or ())) - set(remove or ()),
        (removed | set(remove or ())) - set(grant or ()),
    )
    after = await office.admin.update_user(
        tenant, user, role=role, granted_scopes=sorted(granted), removed_scopes=sorted(removed)
    )
    _show(office, after)


@app.command("disable")
@admin_command
async def disable(office: Office, user: User, tenant: Tenant) -> None:
    """Shuts a user out: sessions, streams and runs end within 2 seconds."""
    await _set_disabled(office, user, tenant, True)


@app.command("enable")
@admin_command
async def enable(office: Office, user: User, tenant: Tenant) -> None:
    """Lets a disabled user in again."""
    await _set_disabled(office, user, tenant, False)


@app.command("tenants")
@admin_command
async def tenants(office: Office) -> None:
    """Lists the tenants."""
    from carrel_cli.event_lines import moment

    found = [tenant async for tenant in office.admin.list_tenants(page_size=500)]
    office.out.document({"tenants": [as_document(tenant) for tenant in found]})
    rows = [(tenant.tenant_id, moment(tenant.create_time)) for tenant in found]
    office.out.table(["TENANT", "ENTERED"], rows, "No tenants yet.")


async def _set_disabled(office: Office, user: str, tenant: str, disabled: bool) -> None:
    _show(office, await office.admin.update_user(tenant, user, disabled=disabled))


def _show(office: Office, user: pb.User) -> None:
    office.out.document({"user": as_document(user)})
    facts: dict[str, Any] = {
        "user": user.user_id,
        "tenant": user.tenant_id,
        "role": user.role,
        "state": _state(user),
        "granted": " ".join(user.granted_scopes) or "-",
        "removed": " ".join(user.removed_scopes) or "-",
        "may": " ".join(user.scopes) or "nothing",
    }
    office.out.table(["", ""], list(facts.items()), "")


def _state(user: pb.User) -> str:
    if user.disabled:
        return "disabled"
    return "revoked" if user.revoked else "active"
