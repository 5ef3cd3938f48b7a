"""Revoking and restoring: the statements, and the operations over them. What is revoked is committed before anybody is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import text

from carrel_chassis.bus import Bus
from carrel_chassis.db.engine import Connection, Engine, Row
from carrel_chassis.db.sessions import database_errors
from carrel_chassis.db.tenants import TenantDatabase
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import MAX_LIFETIME_SECONDS
from carrel_chassis.ids import check_id
from carrel_chassis.logs import get_logger
from carrel_chassis.revocations import SUBJECT, Changes, Revocation, Revocations, What
from carrel_chassis.signing import CLOCK_SKEW_SECONDS
from carrel_context.domain import check_scope

PAGE = 5000
_CLEAN_SECONDS = 600.0
_MAX_VERSION = 2**63 - 1
_REISSUE_SECONDS = MAX_LIFETIME_SECONDS + 2 * CLOCK_SKEW_SECONDS
"""After a change of rights: as long as a context lives that was issued before."""

_COLUMNS = """tenant_id, user_id, what, value, version, revoked, CAST(extract(epoch FROM change_time) AS float8),
    CAST(coalesce(extract(epoch FROM expire_time), 0) AS float8), reason"""
CHANGES = text(f"SELECT {_COLUMNS} FROM revocation WHERE version > :after ORDER BY version LIMIT :count")
VERSION = text("SELECT version FROM revocation_version")
FORGET = text("DELETE FROM revocation WHERE expire_time < now()")
FORGET_SESSIONS = text(
    "DELETE FROM session WHERE last_seen_time < now() - make_interval(secs => CAST(:keep_seconds AS float8))"
)
CHANGE = text(f"""
    WITH next AS (UPDATE revocation_version SET version = version + 1 RETURNING version)
    INSERT INTO revocation (tenant_id, user_id, what, value, version, revoked, reason, change_time, expire_time)
    SELECT :tenant_id, :user_id, :what, :value, next.version, :revoked, :reason, clock_timestamp(),
           CASE WHEN CAST(:keep_seconds AS float8) > 0
               THEN clock_timestamp() + make_interval(secs => CAST(:keep_seconds AS float8)) END
    FROM next
    ON CONFLICT (tenant_id, user_id, what, value) DO UPDATE SET version = excluded.version, revoked = excluded.revoked,
        reason = excluded.reason, change_time = excluded.change_time, expire_time = excluded.expire_time
    RETURNING {_COLUMNS}
""")
IS_REVOKED = text("""
    SELECT revoked FROM revocation
    WHERE tenant_id = :tenant_id AND user_id = :user_id AND what = :what AND value = :value FOR UPDATE
""")


async def change(
    connection: Connection,
    tenant_id: str,
    user_id: str,
    what: What,
    value: str = "",
    *,
    revoked: bool,
    reason: str = "",
    keep_seconds: float = 0.0,
) -> Revocation:
    """Writes one change, as the next version, in the caller's transaction; `keep_seconds` 0 keeps it for ever."""
    values = {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "what": what.value,
        "value": value,
        "revoked": revoked,
        "reason": reason,
        "keep_seconds": keep_seconds,
    }
    return _revocation((await connection.execute(CHANGE, values)).one())


async def demand_new_contexts(connection: Connection, tenant_id: str, user_id: str) -> Revocation | None:
    """What was issued to the user before now is refused, because rights have changed; None when all of it is refused anyway."""
    if await is_revoked(connection, tenant_id, user_id, What.USER, ""):
        return None
    return await change(connection, tenant_id, user_id, What.USER, revoked=False, keep_seconds=_REISSUE_SECONDS)


async def is_revoked(connection: Connection, tenant_id: str, user_id: str, what: What, value: str) -> bool:
    """Whether it stands, now and until the end of the transaction."""
    values = {"tenant_id": tenant_id, "user_id": user_id, "what": what.value, "value": value}
    return bool((await connection.execute(IS_REVOKED, values)).scalar_one_or_none())


def changes_in(engine: Engine) -> Callable[[int], Awaitable[Changes]]:
    """What has changed after a version, from the database: what the context service itself follows, and tells the others."""

    async def fetch(after_version: int) -> Changes:
        async with database_errors(), engine.connect() as connection:
            # The version first: what is committed after it may be seen below too, and is then seen again.
            version = int((await connection.execute(VERSION)).scalar_one())
            rows = (await connection.execute(CHANGES, {"after": min(after_version, _MAX_VERSION), "count": PAGE})).all()
        found = [_revocation(row) for row in rows]
        more = len(found) == PAGE
        return Changes(found, found[-1].version if more else version, more)

    return fetch


def _revocation(row: Row) -> Revocation:
    values: list[Any] = list(row)
    values[2] = What(values[2])
    return Revocation(*values)


class RevocationOperations:
    """Revoke, restore, list."""

    def __init__(
        self,
        tenants: TenantDatabase,
        revocations: Revocations,
        engine: Engine,
        bus: Bus | None,
        keep_seconds: float,
    ) -> None:
        self._tenants = tenants
        self._revocations = revocations
        self._engine = engine
        self._bus = bus
        self._keep_seconds = keep_seconds
        self.changes = changes_in(engine)

    async def revoke(self, tenant_id: str, user_id: str, what: What, value: str, reason: str) -> Revocation:
        """Revokes; when this returns it is durable, and this process refuses already."""
        _check(tenant_id, user_id, what, value)
        keep = self._keep_seconds if what in (What.SESSION, What.RUN) else 0.0
        async with self._tenants.of(tenant_id) as connection:
            done = await change(
                connection, tenant_id, user_id, what, value, revoked=True, reason=reason, keep_seconds=keep
            )
        await self.tell(done)
        return done

    async def restore(self, tenant_id: str, user_id: str, what: What, value: str) -> Revocation:
        """Lifts a revocation; REVOCATION_NOT_FOUND."""
        _check(tenant_id, user_id, what, value)
        async with self._tenants.of(tenant_id) as connection:
            if not await is_revoked(connection, tenant_id, user_id, what, value):
                raise CarrelError(
                    Kind.NOT_FOUND, "REVOCATION_NOT_FOUND", "Nothing of this kind is revoked of this user."
                )
            done = await change(
                connection, tenant_id, user_id, what, value, revoked=False, keep_seconds=self._keep_seconds
            )
        await self.tell(done)
        return done

    async def tell(self, *changes: Revocation | None) -> None:
        """Makes committed changes known: here at once, elsewhere by a push, and by the next poll if the push is lost."""
        for done in changes:
            if done is not None:
                self._revocations.apply(done)
                if self._bus is not None:
                    await self._bus.publish(SUBJECT, str(done.version).encode())

    async def keep_clean(self) -> None:
        """For ever: deletes what nothing valid is refused by any more, and sessions that nobody uses. Runs as a task beside the server."""
        while True:
            try:
                async with database_errors(), self._engine.begin() as connection:
                    await connection.execute(FORGET)
                    # As long as its revocation is remembered: one that was ended is seen as ended.
                    await connection.execute(FORGET_SESSIONS, {"keep_seconds": self._keep_seconds})
            except CarrelError as error:
                get_logger().warning("revocations.not_cleaned", reason=error.reason)
            await asyncio.sleep(_CLEAN_SECONDS)


def _check(tenant_id: str, user_id: str, what: What, value: str) -> None:
    check_id(tenant_id, "tenant_id")
    check_id(user_id, "user_id")
    if what is What.USER and value:
        raise invalid("value", "value is for a session, a run or a scope; a user has none.")
    if what is What.SCOPE:
        check_scope(value, "value")
    elif what is not What.USER:
        check_id(value, "value")
