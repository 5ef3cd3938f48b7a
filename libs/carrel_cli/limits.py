"""`carrel limits ...`: how much a user, or a whole tenant, may have at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.administration import Tenant, as_document
from carrel_cli.command import Office, admin_command

if TYPE_CHECKING:
    from carrel.api.gateway.v1 import admin_service_pb2 as pb

app = typer.Typer(help="How much a user or a tenant may have at a time.", no_args_is_help=True)

OneUser = Annotated[str, typer.Option("--user", help="The user; without it, the tenant itself.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=0, help="0 sets it back to the default.", show_default=False)]


@app.command("show")
@admin_command
async def show(office: Office, tenant: Tenant, user: OneUser = "") -> None:
    """Shows what is set, and what holds."""
    _show(office, await office.admin.get_limits(tenant, user))


@app.command("set")
@admin_command
async def set_(
    office: Office,
    tenant: Tenant,
    user: OneUser = "",
    running_runs: Limit = None,
    queued_runs: Limit = None,
    database_sessions: Limit = None,
    tool_calls_per_minute: Limit = None,
    open_streams: Limit = None,
    isolated_memory_mb: Limit = None,
    weight: Limit = None,
) -> None:
    """Sets limits; those that are not named stay. A user's hold within 2 seconds."""
    wanted = {
        "running_runs": running_runs,
        "queued_runs": queued_runs,
        "database_sessions": database_sessions,
        "tool_calls_per_minute": tool_calls_per_minute,
        "open_streams": open_streams,
        "isolated_memory_mb": isolated_memory_mb,
        "weight": weight,
    }
    limits = (await office.admin.get_limits(tenant, user)).set
    for name, value in wanted.items():
        if value is not None:
            setattr(limits, name, value)
    _show(office, await office.admin.set_limits(tenant, limits, user))


def _show(office: Office, found: pb.GetLimitsResponse | pb.SetLimitsResponse) -> None:
    office.out.document({"set": as_document(found.set), "effective": as_document(found.effective)})
    names = [field.name for field in found.set.DESCRIPTOR.fields]
    rows = [(name, _number(getattr(found.set, name)), _number(getattr(found.effective, name))) for name in names]
    office.out.table(["LIMIT", "SET", "HOLDS"], rows, "")


def _number(value: int) -> str:
    return str(value) if value else "the service's own"
