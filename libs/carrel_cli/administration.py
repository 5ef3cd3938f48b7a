"""Who administers: the user of a token, through the gateway, or the operator of the system on this machine, who needs none."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from carrel.client import Admin
    from carrel_chassis.rpc.channel import Peer

Tenant = Annotated[str, typer.Option("--tenant", help="The tenant.")]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id in the tenant.")]

_CALL_SECONDS = 10.0
_SERVICES = {
    "carrel.api.context.v1.DirectoryService": (
        "CreateTenant ListTenants CreateUser GetUser ListUsers UpdateUser ListApiKeys RevokeApiKey GetLimits SetLimits "
        "ListServiceIdentities"
    ),
    "carrel.api.context.v1.RevocationService": "Revoke Restore",
    "carrel.api.context.v1.ContextService": "CreateApiKey RotateSigningKeys",
}
"""What the operator may ask the context service itself; its messages are those of the gateway."""


@asynccontextmanager
async def administrator(data_dir: Path, token: str | None, address: str | None) -> AsyncIterator[Admin]:
    """The calls of administration: through a gateway with a token (`--token`, CARREL_TOKEN), else as this machine's operator."""
    from carrel_cli.access import Access

    if token or address or os.environ.get("CARREL_TOKEN"):
        async with Access.choose(data_dir, None, None, token, address).client() as client:
            yield client.admin
        return
    async with operating(data_dir) as peer:
        yield operator_admin(peer)


@asynccontextmanager
async def operating(data_dir: Path) -> AsyncIterator[Peer]:
    """The operator's line to the context service of the system that runs on the data folder; without one, a sentence how to start it."""
    from carrel_chassis.stack.development import Operator
    from carrel_cli.access import running

    operator = Operator(data_dir, running(data_dir)["context"])
    try:
        yield operator.context
    finally:
        await operator.close()


def operator_admin(peer: Peer) -> Admin:
    """The same calls, made at the context service with the operator's own key."""
    from carrel._calls import Caller
    from carrel.client import Admin

    return Admin(_OperatorStub(peer), Caller("", _CALL_SECONDS))  # type: ignore[arg-type]  # what of the stub is used


class _OperatorStub:
    """The gateway's AdminService as the context service answers it."""

    def __init__(self, peer: Peer) -> None:
        from carrel.api.gateway.v1 import admin_service_pb2 as pb

        for service, names in _SERVICES.items():
            for name in names.split():
                answer = getattr(pb, f"{name}Response").FromString
                method: Callable[..., Any] = peer.channel.unary_unary(
                    f"/{service}/{name}", lambda it: it.SerializeToString(), answer
                )
                setattr(self, name, _as_operator(method, peer))


def _as_operator(method: Callable[..., Any], peer: Peer) -> Callable[..., Any]:
    return lambda request, metadata, timeout: method(request, metadata=peer.metadata(), timeout=timeout)


def as_document(message: Message) -> dict[str, Any]:
    """A message of the directory as JSON, lists included; what is absent is left out."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
