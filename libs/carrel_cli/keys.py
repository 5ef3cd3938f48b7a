"""`carrel keys ...`: API keys of users, the keys of the services, and the key that signs contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from carrel_cli.administration import Administration, Tenant, User, administering, as_document
from carrel_cli.command import Local, local_command
from carrel_cli.users import directory

if TYPE_CHECKING:
    from carrel.api.context.v1 import context_service_pb2_grpc as rpc

app = typer.Typer(help="API keys, and the keys that contexts are signed with.", no_args_is_help=True)


def contexts(administration: Administration) -> rpc.ContextServiceAsyncStub:
    """The service that signs."""
    from carrel.api.context.v1.context_service_pb2_grpc import ContextServiceStub

    stub: rpc.ContextServiceAsyncStub = ContextServiceStub(administration.channel)
    return stub


@app.command("create")
@local_command
async def create(
    local: Local,
    user: User,
    tenant: Tenant,
    label: Annotated[str, typer.Option(help="What the list of keys shows.")] = "made by carrel keys",
) -> None:
    """Makes an API key of a user; it is shown this once."""
    from carrel.api.context.v1 import context_service_pb2 as pb

    async with administering(local) as administration:
        request = pb.CreateApiKeyRequest(tenant_id=tenant, user_id=user, label=label)
        made = await administration.ask(contexts(administration).CreateApiKey, request)
    local.out.document({"api_key_id": made.api_key_id, "api_key": made.api_key})
    local.out.text(made.api_key)


@app.command("list")
@local_command
async def list_(local: Local, user: User, tenant: Tenant) -> None:
    """Lists the API keys of a user, without their secrets."""
    from carrel.api.context.v1 import directory_service_pb2 as pb
    from carrel_cli.event_lines import moment

    async with administering(local) as administration:
        request = pb.ListApiKeysRequest(tenant_id=tenant, user_id=user, page_size=500)
        found = await administration.all(directory(administration).ListApiKeys, request, "api_keys")
    local.out.document({"api_keys": [as_document(key) for key in found]})
    rows = [
        (
            key.api_key_id,
            key.label,
            moment(key.create_time),
            moment(key.revoke_time) if key.HasField("revoke_time") else "-",
        )
        for key in found
    ]
    local.out.table(["KEY", "FOR", "MADE", "REVOKED"], rows, f"The user {user} has no API keys.")


@app.command("revoke")
@local_command
async def revoke(
    local: Local, user: User, key: Annotated[str, typer.Argument(metavar="KEY", help="Its id.")], tenant: Tenant
) -> None:
    """Revokes an API key; what it has opened ends within 2 seconds."""
    from carrel.api.context.v1 import directory_service_pb2 as pb

    async with administering(local) as administration:
        request = pb.RevokeApiKeyRequest(tenant_id=tenant, user_id=user, api_key_id=key)
        done = await administration.ask(directory(administration).RevokeApiKey, request)
    local.out.document({"api_key": as_document(done.api_key)})
    local.out.text(f"{key} is revoked.")


@app.command("rotate")
@local_command
async def rotate(local: Local) -> None:
    """Makes the next key that contexts are signed with; no valid call is refused meanwhile."""
    from carrel.api.context.v1 import context_service_pb2 as pb
    from carrel_cli.event_lines import moment

    async with administering(local) as administration:
        made = await administration.ask(contexts(administration).RotateSigningKeys, pb.RotateSigningKeysRequest())
    local.out.document({"key": as_document(made.key)})
    local.out.text(f"{made.key.key_id} is announced and signs from {moment(made.key.sign_time)} on.")


@app.command("signing")
@local_command
async def signing(local: Local) -> None:
    """Lists the keys that contexts are signed with, at most two."""
    from carrel.api.context.v1 import context_service_pb2 as pb
    from carrel_cli.event_lines import moment

    async with administering(local) as administration:
        found = (await administration.ask(contexts(administration).ListSigningKeys, pb.ListSigningKeysRequest())).keys
    local.out.document({"keys": [as_document(key) for key in found]})
    local.out.table(["KEY", "SIGNS FROM"], [(key.key_id, moment(key.sign_time)) for key in found], "No keys.")


@app.command("services")
@local_command
async def services(local: Local) -> None:
    """Lists the services that may prove who they are."""
    from carrel.api.context.v1 import directory_service_pb2 as pb

    async with administering(local) as administration:
        request = pb.ListServiceIdentitiesRequest()
        found = (await administration.ask(directory(administration).ListServiceIdentities, request)).identities
    local.out.document({"services": [as_document(identity) for identity in found]})
    local.out.table(["SERVICE", "SHA256 OF ITS KEY"], [(one.service, one.fingerprint) for one in found], "No services.")
