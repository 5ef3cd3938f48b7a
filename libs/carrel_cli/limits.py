"""`carrel limits ...`: how much a user, or a whole tenant, may have at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.administration import Tenant, administering, as_document
from carrel_cli.command import Local, local_command
from carrel_cli.users import directory

if TYPE_CHECKING:
    from carrel.api.context.v1 import directory_service_pb2 as pb

app = typer.Typer(help="How much a user or a tenant may have at a time.", no_args_is_help=True)

OneUser = Annotated[str, typer.Option("--user", help="The user; without it, the tenant itself.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=0, help="0 sets it back to the default.", show_default=False)]


@app.command("show")
@local_command
async def show(local: Local, tenant: Tenant, user: OneUser = "") -> None:
    """Shows what is set, and what holds."""
    from carrel.api.context.v1 import directory_service_pb2 as pb

    async with administering(local) as administration:
        request = pb.GetLimitsRequest(tenant_id=tenant, user_id=user)
        _show(local, await administration.ask(directory(administration).GetLimits, request))


@app.command("set")
@local_command
async def set_(
    local: Local,
    tenant: Tenant,
    user: OneUser = "",
    running_runs: Limit = None,
    queued_runs: Limit = None,
    database_sessions: Limit = None,
    tool_calls_per_minute: Limit = None,
    open_streams: Limit = None,
    isolated_memory_mb: Limit = None,
) -> None:
    """Sets limits; those that are not named stay. A user's hold within 2 seconds."""
    from carrel.api.context.v1 import directory_service_pb2 as pb

    wanted = {
        "running_runs": running_runs,
        "queued_runs": queued_runs,
        "database_sessions": database_sessions,
        "tool_calls_per_minute": tool_calls_per_minute,
        "open_streams": open_streams,
        "isolated_memory_mb": isolated_memory_mb,
    }
    async with administering(local) as administration:
        stub = directory(administration)
        found = await administration.ask(stub.GetLimits, pb.GetLimitsRequest(tenant_id=tenant, user_id=user))
        request = pb.SetLimitsRequest(tenant_id=tenant, user_id=user, limits=found.set)
        for name, value in wanted.items():
            if value is not None:
                setattr(request.limits, name, value)
        _show(local, await administration.ask(stub.SetLimits, request))


def _show(local: Local, found: pb.GetLimitsResponse | pb.SetLimitsResponse) -> None:
    local.out.document({"set": as_document(found.set), "effective": as_document(found.effective)})
    names = [field.name for field in found.set.DESCRIPTOR.fields]
    rows = [(name, _number(getattr(found.set, name)), _number(getattr(found.effective, name))) for name in names]
    local.out.table(["LIMIT", "SET", "HOLDS"], rows, "")


def _number(value: int) -> str:
    return str(value) if value else "the service's own"
