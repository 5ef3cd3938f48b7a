"""Sessions: the statements, and the operations over them. A session is written when its first context is issued."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_chassis.revocations import What
from carrel_context.domain import API_KEY_SESSION
from carrel_context.pages import page_size, read_token, write_token
from carrel_context.people import PeopleOperations
from carrel_context.revocations import RevocationOperations

_KIND = "sessions"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEWEST = datetime(9999, 1, 1, tzinfo=UTC)

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
        size = page_size(asked, 50, 200)
        create_time, session_id = _position(token) if token else (_NEWEST, "")
        values = {**_owner(user), "create_time": create_time, "session_id": session_id, "count": size + 1}
        async with self._sessions.open(user, call_id) as connection:
            found = [Session(*row) for row in await connection.execute(LIST_SESSIONS, values)]
        return found[:size], _token(found[size - 1]) if len(found) > size else ""

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


def _token(session: Session) -> str:
    micros = (session.create_time - _EPOCH) // timedelta(microseconds=1)
    return write_token(_KIND, str(micros), session.session_id)


def _position(token: str) -> tuple[datetime, str]:
    micros, session_id = read_token(token, _KIND, 2)
    try:
        return _EPOCH + timedelta(microseconds=int(micros)), session_id
    except (ValueError, OverflowError):
        raise invalid(
            "page_token", "page_token is not one that this list gave out; begin again without one.", "CURSOR_INVALID"
        ) from None
