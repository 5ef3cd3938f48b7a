"""The public keys of the context service, fetched from it and kept: what the other services verify contexts with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from carrel.api.context.v1 import context_service_pb2 as pb
from carrel.api.context.v1 import context_service_pb2_grpc as rpc
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger
from carrel_chassis.rpc.channel import Peer
from carrel_chassis.rpc.status import remote_errors

_REFRESH_SECONDS = 30.0
_MIN_INTERVAL_SECONDS = 1.0
"""At most one question in this time, however many unknown key ids come: a flood of forged contexts must not become one of calls."""


class FetchedKeys:
    """Keys by id. An unknown id makes it ask anew; a key that is no longer listed is forgotten at the next answer."""

    def __init__(self, peer: Peer, monotonic: Callable[[], float]) -> None:
        self._stub: rpc.ContextServiceAsyncStub = rpc.ContextServiceStub(peer.channel)
        self._peer = peer
        self._monotonic = monotonic
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def get(self, key_id: str) -> Ed25519PublicKey | None:
        key = self._keys.get(key_id)
        if key is None:
            await self._ask_again()
            key = self._keys.get(key_id)
        return key

    async def _ask_again(self) -> None:
        async with self._lock:  # many calls may meet the same new key at once: one of them asks
            if self._monotonic() - self._asked < _MIN_INTERVAL_SECONDS and self._keys:
                return
            try:
                await self.fetch()
            except CarrelError:
                if not self._keys:
                    raise CarrelError(
                        Kind.UNAVAILABLE,
                        "UNAVAILABLE",
                        "The keys that verify contexts could not be fetched; try again.",
                    ) from None

    async def fetch(self) -> None:
        """Replaces the keys by those that the context service lists now; raises CarrelError when it does not answer."""
        self._asked = self._monotonic()
        with remote_errors():
            answer = await self._stub.ListSigningKeys(
                pb.ListSigningKeysRequest(),
                metadata=self._peer.metadata(),
                timeout=2.0,
                # At the start the context service may be up while the channel still pauses after its first failure:
                # a call that came then would be refused although nothing is wrong. With keys at hand nobody waits.
                wait_for_ready=not self._keys,
            )
        self._keys = {key.key_id: Ed25519PublicKey.from_public_bytes(key.public_key) for key in answer.keys}

    async def keep_fresh(self) -> None:
        """Fetches for ever: soon after a failure, twice a minute otherwise. Runs as a task beside the server."""
        log = get_logger()
        while True:
            delay = _REFRESH_SECONDS
            try:
                await self.fetch()
            except CarrelError as error:
                delay = 0.2 if not self._keys else _MIN_INTERVAL_SECONDS
                if self._keys:
                    log.warning("keys.stale", reason=error.reason)
            await asyncio.sleep(delay)
