"""`carrel keys ...`: API keys of users, the keys of the services, and the key that signs contexts."""

from __future__ import annotations

from typing import Annotated

import typer

from carrel_cli.administration import Tenant, User, as_document, operating
from carrel_cli.command import Local, Office, admin_command, local_command

app = typer.Typer(help="API keys, and the keys that contexts are signed with.", no_args_is_help=True)


@app.command("create")
@admin_command
async def create(
    office: Office,
    user: User,
    tenant: Tenant,
    label: Annotated[str, typer.Option(help="What the list of keys shows.")] = "made by carrel keys",
) -> None:
    """Makes an API key of a user; it is shown this once."""
    made = await office.admin.create_api_key(tenant, user, label)
    office.out.document({"api_key_id": made.api_key_id, "api_key": made.api_key})
    office.out.text(made.api_key)


@app.command("list")
@admin_command
async def list_(office: Office, user: User, tenant: Tenant) -> None:
    """Lists the API keys of a user, without their secrets."""
    from carrel_cli.event_lines import moment

    found = [key async for key in office.admin.list_api_keys(tenant, user, page_size=500)]
    office.out.document({"api_keys": [as_document(key) for key in found]})
    rows = [
        (
            key.api_key_id,
            key.label,
            moment(key.create_time),
            moment(key.revoke_time) if key.HasField("revoke_time") else "-",
        )
        for key in found
    ]
    office.out.table(["KEY", "FOR", "MADE", "REVOKED"], rows, f"The user {user} has no API keys.")


@app.command("revoke")
@admin_command
async def revoke(
    office: Office, user: User, key: Annotated[str, typer.Argument(metavar="KEY", help="Its id.")], tenant: Tenant
) -> None:
    """Revokes an API key; what it has opened ends within 2 seconds."""
    done = await office.admin.revoke_api_key(tenant, user, key)
    office.out.document({"api_key": as_document(done)})
    office.out.text(f"{key} is revoked.")


@app.command("rotate")
@admin_command
async def rotate(office: Office) -> None:
    """Makes the next key that contexts are signed with; no valid call is refused meanwhile."""
    from carrel_cli.event_lines import moment

    made = await office.admin.rotate_signing_keys()
    office.out.document({"key": as_document(made)})
    office.out.text(f"{made.key_id} is announced and signs from {moment(made.sign_time)} on.")


@app.command("signing")
@local_command
async def signing(local: Local) -> None:
    """Lists the keys that contexts are signed with, at most two; on the machine of the system only."""
    from carrel.api.context.v1 import context_service_pb2 as pb
    from carrel.api.context.v1 import context_service_pb2_grpc as rpc
    from carrel_chassis.rpc.status import remote_errors
    from carrel_cli.event_lines import moment

    async with operating(local.data_dir) as peer:
        stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(peer.channel)
        with remote_errors():
            answer = await stub.ListSigningKeys(pb.ListSigningKeysRequest(), metadata=peer.metadata(), timeout=10)
    found = answer.keys
    local.out.document({"keys": [as_document(key) for key in found]})
    local.out.table(["KEY", "SIGNS FROM"], [(key.key_id, moment(key.sign_time)) for key in found], "No keys.")


@app.command("services")
@admin_command
async def services(office: Office) -> None:
    """Lists the services that may prove who they are."""
    found = await office.admin.list_service_identities()
    office.out.document({"services": [as_document(identity) for identity in found]})
    office.out.table(
        ["SERVICE", "SHA256 OF ITS KEY"], [(one.service, one.fingerprint) for one in found], "No services."
    )
