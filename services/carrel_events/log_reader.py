"""The log's reader: pages of one user's log as frames, each in a database session of that user. It knows no bus and no stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_events import repository
from carrel_events.domain import Cursor, Filter, check_cursor
from carrel_events.frames import Frame, placed

PAGE_EVENTS = 500
PAGE_BYTES = 128 * 1024
"""What a stream holds at a time, until its reader has taken it. What one costs that is not read is a few times this."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, the position after them, and whether the log is known to have more."""

    frames: Sequence[Frame]
    position: Cursor
    more: bool = False


class LogReader:
    """Reads, as the user whose log it is."""

    def __init__(self, sessions: UserSessions) -> None:
        self._sessions = sessions

    async def read(
        self,
        user: UserContext,
        after: Cursor,
        wanted: Filter,
        call_id: str = "",
        max_events: int = PAGE_EVENTS,
        max_bytes: int = PAGE_BYTES,
    ) -> Page:
        """A page after a cursor. Raises HISTORY_TRUNCATED and CURSOR_INVALID; UNAVAILABLE without a database."""
        async with self._sessions.open(user, call_id or new_id("read")) as connection:
            read = await repository.read_events(connection, user, after, wanted, max_events, max_bytes)
        check_cursor(after, read.state)
        epoch = read.state.epoch
        frames = [Frame.of(placed(body, Cursor(epoch, offset))) for offset, body in read.rows]
        return Page(frames, read.position(after), read.cut)
