"""The calls that this process executes now: no step twice at once, and each can be stopped from beside. It knows no tool and no ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from carrel_tools import domain
from carrel_tools.domain import Step

CallKey = tuple[str, str, str]
"""Tenant, user and tool_call_id: two users may have calls of one id."""


class Stop:
    """Ends one call's tool from beside."""

    def __init__(self) -> None:
        self.asked = False
        """Whether it is to end, or not to begin."""
        self._scope: asyncio.Timeout | None = None

    def ask(self) -> None:
        """Ends what is at work now; again it does nothing."""
        self.asked = True
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def ends(self, scope: asyncio.Timeout) -> Iterator[None]:
        """Lets `ask` end this scope during the block: it raises TimeoutError, as when its time is over."""
        self._scope = scope
        try:
            yield
        finally:
            self._scope = None


class InFlight:
    """The calls under way, by owner and id, and of each call its attempts: a later one may overtake an earlier one."""

    def __init__(self) -> None:
        self._calls: dict[CallKey, dict[int, Stop]] = {}

    @property
    def keys(self) -> list[CallKey]:
        """Of all calls under way."""
        return list(self._calls)

    @contextmanager
    def alone(self, owner: tuple[str, str], step: Step) -> Iterator[Stop]:
        """Holds the step for the block, and gives what stops it. Raises STALE_ATTEMPT, or UNAVAILABLE while it is under way already; a
        later attempt may overtake an earlier one if running twice does no harm."""
        key = (*owner, step.tool_call_id)
        newest = max(self._calls.get(key, ()), default=0)
        if newest > step.attempt:
            raise domain.stale_attempt(step)
        if newest and (newest == step.attempt or not step.idempotent):
            raise domain.still_running(step)
        attempts = self._calls.setdefault(key, {})
        attempts[step.attempt] = stop = Stop()
        try:
            yield stop
        finally:
            del attempts[step.attempt]
            if not attempts:
                del self._calls[key]

    def stop(self, key: CallKey) -> None:
        """Stops every attempt at the call; nothing when it is not under way here."""
        for stop in self._calls.get(key, {}).values():
            stop.ask()
