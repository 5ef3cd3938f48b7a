"""`carrel revoke ...`: takes authority back; every service knows within 2 seconds."""

from __future__ import annotations

from typing import Annotated

import typer

from carrel_cli.administration import Tenant, administering, as_document
from carrel_cli.command import Local, local_command

app = typer.Typer(help="Takes authority back before it expires.", no_args_is_help=True)

OneUser = Annotated[str, typer.Option("--user", help="The user.")]
Lift = Annotated[bool, typer.Option("--lift", help="Lifts it instead; what was issued before stays refused.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for who looks at it later.", show_default=False)]


@app.command("user")
@local_command
async def user(local: Local, tenant: Tenant, user: OneUser, reason: Reason = "", lift: Lift = False) -> None:
    """Everything of a user: sessions, streams, runs, and no new ones."""
    await _change(local, tenant, user, "USER", "", reason, lift)


@app.command("session")
@local_command
async def session(
    local: Local,
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="Its id; of an API key, the key's id.")],
    tenant: Tenant,
    user: OneUser,
    reason: Reason = "",
    lift: Lift = False,
) -> None:
    """One session of a user."""
    await _change(local, tenant, user, "SESSION", session_id, reason, lift)


@app.command("run")
@local_command
async def run(
    local: Local,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Its id.")],
    tenant: Tenant,
    user: OneUser,
    reason: Reason = "",
    lift: Lift = False,
) -> None:
    """One run of a user; it is cancelled."""
    await _change(local, tenant, user, "RUN", run_id, reason, lift)


@app.command("scope")
@local_command
async def scope(
    local: Local,
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="As tools.use.")],
    tenant: Tenant,
    user: OneUser,
    reason: Reason = "",
    lift: Lift = False,
) -> None:
    """One scope of a user; what does not need it goes on."""
    await _change(local, tenant, user, "SCOPE", scope, reason, lift)


async def _change(local: Local, tenant: str, user: str, kind: str, value: str, reason: str, lift: bool) -> None:
    from carrel.api.context.v1 import revocation_service_pb2 as pb
    from carrel.api.context.v1 import revocation_service_pb2_grpc as rpc

    number = pb.RevocationKind.Value(f"REVOCATION_KIND_{kind}")
    async with administering(local) as administration:
        stub: rpc.RevocationServiceAsyncStub = rpc.RevocationServiceStub(administration.channel)
        if lift:
            restoration = pb.RestoreRequest(tenant_id=tenant, user_id=user, kind=number, value=value)
            done = (await administration.ask(stub.Restore, restoration)).revocation
        else:
            request = pb.RevokeRequest(tenant_id=tenant, user_id=user, kind=number, value=value, reason=reason)
            done = (await administration.ask(stub.Revoke, request)).revocation
    local.out.document({"revocation": as_document(done)})
    of = f"{kind.lower()} {value} of {user}" if value else f"user {user}"
    local.out.text(f"The revocation of the {of} is lifted." if lift else f"The {of} is revoked.")
