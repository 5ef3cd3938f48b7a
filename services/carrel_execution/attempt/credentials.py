"""The authority of one attempt of a run: asked for from the grant, renewed in time, checked anew each time by the context service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from carrel_chassis.errors import CarrelError, Kind
from carrel_execution.clients import Contexts, Credential, persist
from carrel_execution.domain import ClaimedRun

T = TypeVar("T")

_RENEW_BEFORE_SECONDS = 60.0
REFUSALS = (Kind.UNAUTHENTICATED, Kind.DENIED, Kind.INVALID, Kind.NOT_FOUND)
"""The kinds by which the context service says that a grant is worth nothing any more."""


class ContextRefused(Exception):
    """The user of the run may no longer act, or the grant is not genuine: the run must end."""

    def __init__(self, error: CarrelError) -> None:
        super().__init__(error.message)
        self.error = error


class Credentials:
    """The context of one attempt. Many calls may ask at once; one of them fetches.

    `first` is a context that is on its way already; if it does not arrive, another is asked for.
    """

    def __init__(
        self,
        contexts: Contexts,
        run: ClaimedRun,
        clock: Callable[[], float],
        first: asyncio.Future[Credential] | None = None,
    ) -> None:
        self._contexts = contexts
        self._run = run
        self._clock = clock
        self._lock = asyncio.Lock()
        self._current: Credential | None = None
        self._first = first

    async def signed(self) -> bytes:
        """A context that is good for another minute; raises ContextRefused. Waits while the context service is away."""
        current = self._current
        if current is None or self._clock() > current.expire_time - _RENEW_BEFORE_SECONDS:
            current = await self._renew(current.signed if current else b"")
        return current.signed

    async def call(self, make: Callable[[bytes], Awaitable[T]]) -> T:
        """Makes a call with the context. When the other side does not accept it, once more with a new one."""
        signed = await self.signed()
        try:
            return await make(signed)
        except CarrelError as error:
            if error.kind is not Kind.UNAUTHENTICATED:
                raise
        renewed = await self._renew(signed)
        try:
            return await make(renewed.signed)
        except CarrelError as error:
            if error.kind is Kind.UNAUTHENTICATED:
                raise ContextRefused(error) from None
            raise

    async def _renew(self, old: bytes) -> Credential:
        run = self._run
        async with self._lock:
            if self._current is not None and self._current.signed != old:
                return self._current  # somebody else has renewed it meanwhile
            try:
                self._current = await persist(self._fetch, "IssueRunContext", run.run_id)
            except CarrelError as error:
                if error.kind in REFUSALS:
                    raise ContextRefused(error) from None
                raise
            return self._current

    async def _fetch(self) -> Credential:
        run, first, self._first = self._run, self._first, None
        if first is not None:
            return await first
        return await self._contexts.for_attempt(run.grant, run.run_id, run.thread_id, run.agent, run.epoch)
