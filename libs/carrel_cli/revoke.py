"""`carrel revoke ...`: takes authority back; every service knows within 2 seconds."""

from __future__ import annotations

from typing import Annotated

import typer

from carrel_cli.administration import Tenant, as_document
from carrel_cli.command import Office, admin_command

app = typer.Typer(help="Takes authority back before it expires.", no_args_is_help=True)

OneUser = Annotated[str, typer.Option("--user", help="The user.")]
Lift = Annotated[bool, typer.Option("--lift", help="Lifts it instead; what was issued before stays refused.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for who looks at it later.", show_default=False)]


@app.command("user")
@admin_command
async def user(office: Office, tenant: Tenant, user: OneUser, reason: Reason = "", lift: Lift = False) -> None:
    """Everything of a user: sessions, streams, runs, and no new ones."""
    await _change(office, tenant, user, "USER", "", reason, lift)


@app.command("session")
@admin_command
async def session(
    office: Office,
    session_id: Annotated[str, typer.Argument(metavar="SESSION", help="Its id; of an API key, the key's id.")],
    tenant: Tenant,
    user: OneUser,
    reason: Reason = "",
    lift: Lift = False,
) -> None:
    """One session of a user."""
    await _change(office, tenant, user, "SESSION", session_id, reason, lift)


@app.command("run")
@admin_command
async def run(
    office: Office,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Its id.")],
    tenant: Tenant,
    user: OneUser,
    reason: Reason = "",
    lift: Lift = False,
) -> None:
    """One run of a user; it is cancelled."""
    await _change(office, tenant, user, "RUN", run_id, reason, lift)


@app.command("scope")
@admin_command
async def scope(
    office: Office,
    scope: Annotated[str, typer.Argument(metavar="SCOPE", help="As tools.use.")],
    tenant: Tenant,
    user: OneUser,
    reason: Reason = "",
    lift: Lift = False,
) -> None:
    """One scope of a user; what does not need it goes on."""
    await _change(office, tenant, user, "SCOPE", scope, reason, lift)


async def _change(office: Office, tenant: str, user: str, kind: str, value: str, reason: str, lift: bool) -> None:
    from carrel.api.context.v1.revocation_service_pb2 import RevocationKind

    number = RevocationKind.Value(f"REVOCATION_KIND_{kind}")
    if lift:
        done = await office.admin.restore(tenant, user, number, value)
    else:
        done = await office.admin.revoke(tenant, user, number, value, reason)
    office.out.document({"revocation": as_document(done)})
    of = f"{kind.lower()} {value} of {user}" if value else f"user {user}"
    office.out.text(f"The revocation of the {of} is lifted." if lift else f"The {of} is revoked.")
