"""What a service process needs to know others and to be known: its own key, the other services' keys, the keys of contexts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from carrel_chassis.bus import Bus
from carrel_chassis.revocations import SUBJECT, Fetch, Revocations
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.rpc.identity import ContextAuthenticator
from carrel_chassis.rpc.keys import FetchedKeys
from carrel_chassis.rpc.revocations import fetch_from
from carrel_chassis.rpc.tls import PeerTls
from carrel_chassis.settings import ServiceSettings
from carrel_chassis.signing import (
    Clock,
    ContextVerifier,
    PublicKeys,
    ServiceSigner,
    ServiceVerifier,
    read_key,
    read_trust,
)


class Trust:
    """Made once per process, by `open_trust`; handed to the server and to the clients of other services."""

    def __init__(self, settings: ServiceSettings, service: str, clock: Clock = time.time) -> None:
        self.service = service
        self.clock = clock
        self.signer = ServiceSigner(service, read_key(settings.service_key_file), clock)
        self.services = ServiceVerifier(read_trust(settings.service_trust_file), service, clock)
        self._tls = _peer_tls(settings)

    def authenticator(self, keys: PublicKeys, revocations: Revocations | None = None) -> ContextAuthenticator:
        """Proves the callers of this service's server. Only what is no service of a system goes without revocations."""
        return ContextAuthenticator(ContextVerifier(keys, self.service, self.clock, revocations), self.services)

    def peer(self, name: str, address: str) -> Peer:
        """Another service to call."""
        return Peer(name, address, self.signer, self._tls)

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """What this service's server is bound with; None without TLS between services."""
        return None if self._tls is None else self._tls.server_credentials()


def _peer_tls(settings: ServiceSettings) -> PeerTls | None:
    if settings.peer_ca_file is None or settings.peer_cert_file is None or settings.peer_key_file is None:
        return None
    return PeerTls(settings.peer_ca_file, settings.peer_cert_file, settings.peer_key_file)


@asynccontextmanager
async def fetched_keys(trust: Trust, context_address: str) -> AsyncIterator[FetchedKeys]:
    """The keys that verify contexts, kept fresh by a task until the end of the block. Does not wait for the first answer."""
    async with AsyncExitStack() as stack:
        peer = trust.peer("context", context_address)
        stack.push_async_callback(peer.close)
        keys = FetchedKeys(peer, time.monotonic)
        task = asyncio.create_task(keys.keep_fresh())
        stack.callback(task.cancel)
        yield keys


@asynccontextmanager
async def fetched_revocations(trust: Trust, settings: ServiceSettings, bus: Bus | None) -> AsyncIterator[Revocations]:
    """What has been revoked, followed until the end of the block. Does not wait for the first answer."""
    async with AsyncExitStack() as stack:
        peer = trust.peer("context", settings.context_address)
        stack.push_async_callback(peer.close)
        yield await stack.enter_async_context(followed_revocations(fetch_from(peer), settings, bus))


@asynccontextmanager
async def followed_revocations(fetch: Fetch, settings: ServiceSettings, bus: Bus | None) -> AsyncIterator[Revocations]:
    """The same from any source: by pushes over the bus if there is one, by polls in any case."""
    revocations = Revocations(
        fetch,
        time.time,
        stale_seconds=settings.revocation_stale_seconds,
        fail_closed=settings.revocation_fail_closed,
    )

    async def on_push(subject: str, payload: bytes) -> None:
        revocations.heard(int(payload) if payload.isdigit() else -1)

    async with AsyncExitStack() as stack:
        if bus is not None:
            stack.push_async_callback(await bus.subscribe(SUBJECT, on_push))
        task = asyncio.create_task(revocations.keep_fresh(settings.revocation_poll_seconds))
        stack.callback(task.cancel)
        yield revocations
