"""`carrel token`: what proves a user to the system on this machine, in the form that a tool wants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carrel_cli.command import Local, local_command

_HALF_A_DAY_SECONDS = 12 * 3600


@local_command
async def token(
    local: Local,
    tenant: Annotated[str, typer.Option(help="The tenant.")],
    user: Annotated[str, typer.Option(help="The user.")],
    context: Annotated[
        bool, typer.Option("--context", help="A value of user-context-bin, for ghz -m and grpcurl; good for 5 minutes.")
    ] = False,
    api_key: Annotated[bool, typer.Option("--api-key", help="An API key; it is good until it is revoked.")] = False,
    lifetime: Annotated[
        int | None, typer.Option(min=1, metavar="SECONDS", help="How long the token is good; half a day.")
    ] = None,
) -> None:
    """Makes a development token of any user, from the keys in the data folder."""
    from carrel_cli.access import check_user, local_token

    if context and api_key:
        raise typer.BadParameter("choose one of --context and --api-key.", param_hint="'--context'")
    if lifetime is not None and (context or api_key):
        raise typer.BadParameter("only a token has a lifetime of your choice.", param_hint="'--lifetime'")
    check_user(tenant, user)
    if context or api_key:
        kind = "context" if context else "api_key"
        made = await _from_the_context_service(local.data_dir, tenant, user, context=context)
    else:
        kind = "token"
        made = local_token(local.data_dir, tenant, user, lifetime or _HALF_A_DAY_SECONDS)
    local.out.document({kind: made, "tenant_id": tenant, "user_id": user})
    local.out.text(made)


async def _from_the_context_service(data_dir: Path, tenant: str, user: str, *, context: bool) -> str:
    from carrel_chassis.stack.development import Operator, as_metadata_value
    from carrel_cli.access import running

    operator = Operator(data_dir, running(data_dir)["context"])
    try:
        if context:
            return as_metadata_value(await operator.signed_context(tenant, user))
        return await operator.create_api_key(tenant, user, "made by carrel token")
    finally:
        await operator.close()
