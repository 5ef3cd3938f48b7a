"""Sessions: the statements, and the operations over them. A session is written when its first context is issued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_chassis.pages import Page
from carrel_chassis.revocations import What
from carrel_context.domain import API_KEY_SESSION
from carrel_context.people import PeopleOperations
from carrel_context.revocations import RevocationOperations

OWN = "tenant_id = :tenant_id AND user_id = :user_id"
GET_SESSION = text(f"SELECT kind FROM session WHERE {OWN} AND session_id = :session_id")
LIST_SESSIONS = text(f"""
    SELECT session_id, kind, create_time, last_seen_time,
           EXISTS (SELECT FROM revocation r WHERE r.tenant_id = :tenant_id AND r.user_id = :user_id
                   AND r.what = 'SESSION' AND r.value = session_id AND r.revoked) AS ended
    FROM session
    WHERE {OWN} AND (create_time, session_id) < (:create_time, :session_id)
    ORDER BY create_time DESC, session_id DESC LIMIT :count
""")


@dataclass(frozen=True, slots=True)
class Session:
    """A way in that a user has used."""

    session_id: str
    kind: str
    create_time: datetime
    last_seen_time: datetime
    ended: bool


class SessionOperations:
    """List and end, for the user whose sessions they are."""

    def __init__(self, sessions: UserSessions, revoking: RevocationOperations, people: PeopleOperations) -> None:
        self._sessions = sessions
        self._revoking = revoking
        self._people = people

    async def list(self, user: UserContext, call_id: str, asked: int, token: str) -> tuple[Sequence[Session], str]:
        """A page of sessions, newest first, and the token of the next page; empty on the last."""
        page = Page.newest_first("sessions", asked, token)
        values = {**_owner(user), "create_time": page.create_time, "session_id": page.id, "count": page.size + 1}
        async with self._sessions.open(user, call_id) as connection:
            found = [Session(*row) for row in await connection.execute(LIST_SESSIONS, values)]
        if len(found) <= page.size:
            return found, ""
        last = found[page.size - 1]
        return found[: page.size], page.token_after(last.create_time, last.session_id)

    async def end(self, user: UserContext, call_id: str, session_id: str) -> None:
        """Ends a session everywhere, and the API key that it is, if it is one; SESSION_NOT_FOUND."""
        check_id(session_id, "session_id")
        async with self._sessions.open(user, call_id) as connection:
            values = {**_owner(user), "session_id": session_id}
            kind = (await connection.execute(GET_SESSION, values)).scalar_one_or_none()
        if kind is None:
            raise session_not_found(session_id)
        if kind == API_KEY_SESSION:
            await self._people.revoke_api_key(*user.owner, session_id)
        else:
            await self._revoking.revoke(*user.owner, What.SESSION, session_id, "ended by its user")


def session_not_found(session_id: str) -> CarrelError:
    """The session is absent or another user's: the same answer."""
    return CarrelError(
        Kind.NOT_FOUND,
        "SESSION_NOT_FOUND",
        f"You have no session {session_id}; list your sessions to see which you have.",
        metadata={"session_id": session_id},
    )


def _owner(user: UserContext) -> dict[str, object]:
    return {"tenant_id": user.tenant_id, "user_id": user.user_id}
