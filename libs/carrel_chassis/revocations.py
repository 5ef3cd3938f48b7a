"""What has been taken back: kept in memory, followed by version, asked before every use of a context. It knows no RPC and no bus.

Versions are dense over the whole system, so that whoever knows version 7 and hears of 9 knows that 8 is missing, and fetches.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.logs import get_logger

SUBJECT = "carrel.revocations"
"""Told to all services when there is a new version. The payload is its number: what it is, is fetched; nobody can revoke over the bus."""
CLOSING_SCOPE = "runs.close"
"""The one scope of a context that may only write the end of a run; no role has it, and no revocation refuses it: every run ends."""

Owner = tuple[str, str]
Clock = Callable[[], float]


class What(StrEnum):
    """What of a user is revoked."""

    USER = "USER"
    SESSION = "SESSION"
    RUN = "RUN"
    SCOPE = "SCOPE"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One thing that stands against a user's contexts. Times are seconds since the epoch; `expire_time` 0 means never."""

    tenant_id: str
    user_id: str
    what: What
    value: str
    version: int
    revoked: bool
    """False once lifted: then only what was issued before `change_time` is refused."""
    change_time: float
    expire_time: float = 0.0
    reason: str = ""

    @property
    def owner(self) -> Owner:
        """Whose contexts it is about."""
        return (self.tenant_id, self.user_id)

    def refuses(self, user: UserContext) -> bool:
        """Whether a context of its owner is worth nothing because of it."""
        return self._means(user) and (self.revoked or user.issue_time < self.change_time)

    def stops(self, user: UserContext) -> bool:
        """Whether what is under way for a context of its owner is to end. What is only to be issued anew goes on."""
        return self.revoked and self._means(user)

    def _means(self, user: UserContext) -> bool:
        match self.what:
            case What.USER:
                return True
            case What.SESSION:
                return self.value == user.session_id
            case What.RUN:
                return self.value == user.run_id
            case What.SCOPE:
                return False


@dataclass(frozen=True, slots=True)
class Changes:
    """An answer to the question what has changed after a version."""

    revocations: Sequence[Revocation]
    version: int
    more: bool = False


Fetch = Callable[[int], Awaitable[Changes]]
"""Asks for what has changed after a version; raises CarrelError when nobody answers."""
Watcher = Callable[[Revocation], None]


class Revocations:
    """All that is revoked, as far as this process knows; what it knows it keeps refusing, whoever is away."""

    def __init__(self, fetch: Fetch, clock: Clock, *, stale_seconds: float = 10.0, fail_closed: bool = False) -> None:
        self.version = 0
        self.stale = False
        """Nobody has confirmed for `stale_seconds` that this is all."""
        self.closed = False
        """Stale, and told to refuse everything then."""
        self._fetch = fetch
        self._clock = clock
        self._stale_seconds = stale_seconds
        self._fail_closed = fail_closed
        self._known: dict[Owner, dict[tuple[What, str], Revocation]] = {}
        self._watchers: list[Watcher] = []
        self._on_stale: list[Callable[[bool], None]] = []
        self._confirmed = time.monotonic()
        self._complete = False
        self._lock = asyncio.Lock()
        self._asked = asyncio.Event()

    def watch(self, watcher: Watcher) -> None:
        """Calls `watcher` with each change, as soon as it is known; the first snapshot is no change."""
        self._watchers.append(watcher)

    def on_stale(self, listener: Callable[[bool], None]) -> None:
        """Calls `listener` whenever this becomes stale, or fresh again."""
        self._on_stale.append(listener)

    async def check(self, user: UserContext) -> UserContext:
        """The context without the scopes that were taken from its user. Raises CONTEXT_REVOKED, and UNAVAILABLE before the first
        snapshot: a service that has just started refuses what it cannot know."""
        if not self._complete:
            await self._first()
        return self.current(user)

    def current(self, user: UserContext) -> UserContext:
        """Like `check`, by what is known now."""
        if self.closed:
            raise _unavailable("Revocations could not be confirmed for too long, and this system refuses calls then.")
        against = self._known.get(user.owner)
        if not against or user.scopes == {CLOSING_SCOPE}:
            return user
        for revocation in against.values():
            if revocation.refuses(user):
                raise context_revoked(revocation)
        lost = {r.value for r in against.values() if r.what is What.SCOPE and r.revoked} & user.scopes
        return replace(user, scopes=user.scopes - lost) if lost else user

    async def _first(self) -> None:
        try:
            async with self._lock:  # many calls may wait for the first answer: one of them asks
                if not self._complete:
                    await self._fetch_missing()
        except CarrelError:
            raise _unavailable("What has been revoked could not be fetched yet; try again.") from None

    def heard(self, version: int) -> None:
        """A push tells of a version."""
        if version != self.version:
            self._asked.set()

    async def refresh(self) -> None:
        """Fetches all that is missing; raises CarrelError when nobody answers."""
        async with self._lock:
            await self._fetch_missing()

    async def _fetch_missing(self) -> None:
        more = True
        while more:
            changes = await self._fetch(self.version)
            if changes.version < self.version:
                self._start_anew(changes.version)
                continue
            for revocation in changes.revocations:
                self._take(revocation, tell=self._complete)
            self.version, more = changes.version, changes.more
        self._complete = True
        self._confirmed = time.monotonic()
        self._judge()

    def _start_anew(self, theirs: int) -> None:
        """The database was put back to an earlier state: what is known here is kept, and all of theirs is read again."""
        get_logger().error("revocations.went_back", known=self.version, theirs=theirs)
        self.version = 0
        for against in self._known.values():
            against.update({key: replace(revocation, version=0) for key, revocation in against.items()})

    def apply(self, revocation: Revocation) -> None:
        """Takes in a change that this process has made itself; the version follows with the next fetch."""
        self._take(revocation, tell=True)
        self._asked.set()

    def _take(self, revocation: Revocation, *, tell: bool) -> None:
        against = self._known.setdefault(revocation.owner, {})
        key = (revocation.what, revocation.value)
        old = against.get(key)
        if old is not None and old.version >= revocation.version:
            return  # known already, or from a fetch that began before a later change was made here
        against[key] = revocation
        if tell:
            for watcher in self._watchers:
                watcher(revocation)

    def _judge(self) -> None:
        stale = time.monotonic() - self._confirmed > self._stale_seconds
        self.closed = stale and self._fail_closed
        if stale != self.stale:
            self.stale = stale
            get_logger().warning("revocations.stale" if stale else "revocations.fresh", version=self.version)
            for listener in self._on_stale:
                listener(stale)

    def _forget(self) -> None:
        """Drops what nothing valid can be refused by any more."""
        now = self._clock()
        for owner, against in list(self._known.items()):
            for key in [key for key, r in against.items() if 0 < r.expire_time < now]:
                del against[key]
            if not against:
                del self._known[owner]

    async def keep_fresh(self, poll_seconds: float) -> None:
        """For ever: asks when a push told of something, and each `poll_seconds` whether told or not."""
        while True:
            try:
                await self.refresh()
                self._forget()
            except CarrelError as error:
                get_logger().debug("revocations.unconfirmed", reason=error.reason)
                self._judge()
            except Exception:
                get_logger().exception("revocations.failed")
                self._judge()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_seconds):
                    await self._asked.wait()
            self._asked.clear()


def context_revoked(revocation: Revocation) -> CarrelError:
    """The refusal of a context, with what of it is revoked."""
    message = {
        What.USER: "The user has been revoked; ask the tenant's administrator.",
        What.SESSION: "The session has been revoked; sign in again.",
        What.RUN: "The run has been revoked; start it again if you may.",
        What.SCOPE: "The scope has been revoked; ask the tenant's administrator.",
    }[revocation.what]
    if not revocation.revoked:
        message = "The context was issued before the user's rights changed; ask for a new one."
    return CarrelError(
        Kind.UNAUTHENTICATED,
        "CONTEXT_REVOKED",
        message,
        metadata={"revoked": revocation.what.value.lower(), "version": str(revocation.version)},
    )


def _unavailable(message: str) -> CarrelError:
    return CarrelError(Kind.UNAVAILABLE, "UNAVAILABLE", message, retry_seconds=1.0)
