"""The channel to another service, and the metadata that goes with every call over it."""

from __future__ import annotations

import grpc
from opentelemetry.propagate import inject
from opentelemetry.trace import get_current_span

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.rpc.identity import CONTEXT_KEY, SERVICE_KEY
from carrel_chassis.rpc.server import MAX_MESSAGE_BYTES
from carrel_chassis.rpc.tls import PeerTls
from carrel_chassis.signing import ServiceSigner

MAX_METADATA_BYTES = 6 * 1024
"""gRPC refuses metadata between 8 and 16 KiB at random; beyond this we refuse it ourselves, always."""

Metadata = tuple[tuple[str, str | bytes], ...]

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A service that was killed is back within a second; the defaults would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `host:port`; it connects when it is used, and again when the other side comes back."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


class Peer:
    """Another service, as this one calls it: the channel, with TLS if there is any between services, and the metadata that proves who
    calls and for whom."""

    def __init__(self, name: str, address: str, signer: ServiceSigner, tls: PeerTls | None = None) -> None:
        self.name = name
        self.channel = open_channel(address) if tls is None else tls.channel(name, address, _OPTIONS)
        self._signer = signer

    def metadata(self, signed_context: bytes = b"") -> Metadata:
        """This service's identity, the user's signed context if there is one, and the trace; raises TOO_LARGE beyond 6 KiB."""
        entries: list[tuple[str, str | bytes]] = [(SERVICE_KEY, self._signer.identity_for(self.name))]
        if signed_context:
            entries.append((CONTEXT_KEY, signed_context))
        if get_current_span().get_span_context().is_valid:
            carrier: dict[str, str] = {}
            inject(carrier)
            entries.extend(carrier.items())
        if (size := sum(len(key) + len(value) for key, value in entries)) > MAX_METADATA_BYTES:
            raise CarrelError(
                Kind.INVALID, "TOO_LARGE", f"The call's metadata has {size} bytes; it may have {MAX_METADATA_BYTES}."
            )
        return tuple(entries)

    async def close(self) -> None:
        """Closes the channel."""
        await self.channel.close()
