"""The log's writer: appends of many users as one statement, under the role that adds and cannot read. It knows no RPC and no bus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from carrel_chassis.identity import UserContext
from carrel_events.domain import Append, Appended, Cursor
from carrel_events.line import Line

_APPEND = "SELECT * FROM append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ORDER BY number"
_POSITIONS = """
    SELECT log.tenant_id, log.user_id, log.epoch, log.last_offset
    FROM unnest($1::text[], $2::text[]) AS owner (tenant, usr)
    JOIN user_log AS log ON log.tenant_id = owner.tenant AND log.user_id = owner.usr
"""

Owner = tuple[str, str]


class LogWriter:
    """What is done for many users at once. Their names come from verified contexts alone."""

    def __init__(self, appends: Line, counters: Line) -> None:
        self._appends = appends
        self._counters = counters

    async def append(self, appends: Sequence[Append]) -> list[Appended]:
        """Appends what is new of each, all in one transaction; each is done, or found stale, by itself."""
        users: list[UserContext] = [append.user for append in appends]
        events = [(number, event) for number, append in enumerate(appends, 1) for event in append.events]
        rows = await self._appends.fetch(
            _APPEND,
            [user.tenant_id for user in users],
            [user.user_id for user in users],
            [user.run_id for user in users],
            [user.thread_id for user in users],
            [user.attempt for user in users],
            [number for number, _ in events],
            [event.event_id for _, event in events],
            [event.type for _, event in events],
            [event.create_time for _, event in events],
            [event.body for _, event in events],
            [event.final for _, event in events],
        )
        return [
            Appended(row["stale"], row["log_epoch"], row["log_last"], tuple(row["new_ids"]), tuple(row["new_offsets"]))
            for row in rows
        ]

    async def positions(self, owners: Sequence[Owner]) -> Mapping[Owner, Cursor]:
        """Where the logs of these users stand; a user without a log is not in the answer."""
        rows = await self._counters.fetch(
            _POSITIONS, [tenant_id for tenant_id, _ in owners], [user_id for _, user_id in owners]
        )
        return {(row["tenant_id"], row["user_id"]): Cursor(row["epoch"], row["last_offset"]) for row in rows}
