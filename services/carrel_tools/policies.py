"""The policies of all tenants, followed by version as revocations are: told by a push, asked for every second in any case.

The push carries the number of a version, not a rule: nobody can permit a tool over the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy import text

from carrel_chassis.bus import Bus
from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.logs import get_logger
from carrel_tools.policy import Policy, read_rules_json

SUBJECT = "carrel.tool_policies"

VERSION = text("SELECT version FROM tool_policy_version")
CHANGES = text("""
    SELECT DISTINCT ON (tenant_id) tenant_id, version, rules_json FROM tool_policy
    WHERE version > :after ORDER BY tenant_id, version DESC
""")

Changes = tuple[int, dict[str, Policy]]
"""The version that everything is known to, and the policies that were set since the one that was asked about."""
Fetch = Callable[[int], Awaitable[Changes]]


class Policies:
    """What holds for each tenant, as far as this process knows; it refuses to answer when it cannot know."""

    def __init__(self, fetch: Fetch, built_in: Policy, clock: Callable[[], float], stale_seconds: float) -> None:
        self.version = -1
        """Of the last change that is known; -1 before the first answer."""
        self._fetch = fetch
        self._built_in = built_in
        self._clock = clock
        self._stale_seconds = stale_seconds
        self._confirmed = clock()
        self._own: dict[str, Policy] = {}
        self._asked = asyncio.Event()
        self._lock = asyncio.Lock()

    async def of(self, tenant_id: str) -> Policy:
        """The policy of a tenant. Raises UNAVAILABLE when nobody has confirmed for too long that it is the newest."""
        if self.version < 0 or self._clock() - self._confirmed > self._stale_seconds:
            await self._confirm()
        return self._own.get(tenant_id, self._built_in)

    async def _confirm(self) -> None:
        known = self.version
        async with self._lock:  # many calls may wait for one answer: one of them asks
            if self.version >= 0 and self._clock() - self._confirmed <= self._stale_seconds:
                return
            try:
                await self._ask()
            except CarrelError:
                get_logger().warning("policies.unconfirmed", version=known)
                raise CarrelError(
                    Kind.UNAVAILABLE,
                    "UNAVAILABLE",
                    "What the policy allows could not be confirmed; try again.",
                    retry_seconds=1.0,
                ) from None

    async def refresh(self) -> None:
        """Fetches what has changed."""
        async with self._lock:
            await self._ask()

    async def _ask(self) -> None:
        asked = self._clock()
        version, changed = await self._fetch(self.version)
        if version < self.version:  # the database was put back: all of it is read again
            self._own = {}
            version, changed = await self._fetch(-1)
        self._own.update(changed)
        self.version = version
        self._confirmed = asked

    def heard(self, version: int) -> None:
        """A push tells of a version."""
        if version != self.version:
            self._asked.set()

    async def keep_fresh(self, poll_seconds: float) -> None:
        """For ever: asks when a push told of something, and each `poll_seconds` whether told or not."""
        while True:
            try:
                await self.refresh()
            except CarrelError as error:
                get_logger().debug("policies.unconfirmed", reason=error.reason)
            except Exception:
                get_logger().exception("policies.failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_seconds):
                    await self._asked.wait()
            self._asked.clear()


def changes_in(engine: Engine) -> Fetch:
    """What was set after a version, from the database, as the role that reads the policies of all tenants."""

    async def fetch(after: int) -> Changes:
        async with database_errors(), engine.begin() as connection:
            # The version first: what is committed after it may be seen below too, and is then seen again.
            version = int((await connection.execute(VERSION)).scalar_one())
            rows = await connection.execute(CHANGES, {"after": after}) if version != after else []
            return version, {row.tenant_id: Policy(read_rules_json(row.rules_json), str(row.version)) for row in rows}

    return fetch


@asynccontextmanager
async def followed_policies(policies: Policies, poll_seconds: float, bus: Bus | None) -> AsyncIterator[Policies]:
    """The same, kept fresh until the end of the block."""

    async def on_push(subject: str, payload: bytes) -> None:
        policies.heard(int(payload) if payload.isdigit() else -1)

    unsubscribe = await bus.subscribe(SUBJECT, on_push) if bus is not None else None
    task = asyncio.create_task(policies.keep_fresh(poll_seconds))
    try:
        yield policies
    finally:
        task.cancel()
        if unsubscribe is not None:
            await unsubscribe()
