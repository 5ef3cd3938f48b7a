"""What the commands of administration share: the operator's line to the context service of the system on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from carrel_cli.command import Local

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from carrel_chassis.rpc.channel import Peer

T = TypeVar("T")

Tenant = Annotated[str, typer.Option("--tenant", help="The tenant.")]
User = Annotated[str, typer.Argument(metavar="USER", help="The user's id in the tenant.")]

_CALL_SECONDS = 10.0


class Administration:
    """Asks the context service as the operator."""

    def __init__(self, peer: Peer) -> None:
        self.channel = peer.channel
        self._peer = peer

    async def ask(self, method: Callable[..., Awaitable[T]], request: Message) -> T:
        """The answer to a request; what is refused is a CarrelError."""
        from carrel_chassis.rpc.status import remote_errors

        with remote_errors():
            return await method(request, metadata=self._peer.metadata(), timeout=_CALL_SECONDS)

    async def all(self, method: Callable[..., Awaitable[Any]], request: Any, field: str) -> list[Any]:
        """Everything of a list, page by page."""
        found: list[Any] = []
        while True:
            page = await self.ask(method, request)
            found += getattr(page, field)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found


@asynccontextmanager
async def administering(local: Local) -> AsyncIterator[Administration]:
    """The operator of the system that runs on the data folder; without one, a sentence how to start it."""
    from carrel_chassis.stack.development import Operator
    from carrel_cli.access import running

    operator = Operator(local.data_dir, running(local.data_dir)["context"])
    try:
        yield Administration(operator.context)
    finally:
        await operator.close()


def as_document(message: Message) -> dict[str, Any]:
    """A message of the directory as JSON, lists included; what is absent is left out."""
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
