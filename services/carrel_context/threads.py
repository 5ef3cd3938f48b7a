"""Threads: the statements, and the operations over them. The user is always the verified one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_chassis.pages import Page

MAX_TITLE = 256

OWN = "tenant_id = :tenant_id AND user_id = :user_id"
_COLUMNS = "thread_id, title, create_time, update_time"
ADD_THREAD = text(f"""
    INSERT INTO thread (tenant_id, user_id, thread_id, title, request_id)
    SELECT :tenant_id, :user_id, :thread_id, :title, :request_id
    WHERE (SELECT count(*) FROM thread WHERE {OWN}) < :most
    ON CONFLICT (tenant_id, user_id, request_id) DO NOTHING RETURNING thread_id
""")
GET_THREAD_OF_REQUEST = text(f"SELECT {_COLUMNS} FROM thread WHERE {OWN} AND request_id = :request_id")
GET_THREAD = text(f"SELECT {_COLUMNS} FROM thread WHERE {OWN} AND thread_id = :thread_id")
LIST_THREADS = text(f"""
    SELECT {_COLUMNS} FROM thread
    WHERE {OWN} AND (create_time, thread_id) < (:create_time, :thread_id)
    ORDER BY create_time DESC, thread_id DESC LIMIT :count
""")
RENAME_THREAD = text(f"""
    UPDATE thread SET title = :title, update_time = clock_timestamp() WHERE {OWN} AND thread_id = :thread_id
    RETURNING {_COLUMNS}
""")
DELETE_THREAD = text(f"DELETE FROM thread WHERE {OWN} AND thread_id = :thread_id RETURNING thread_id")


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation of a user."""

    thread_id: str
    title: str
    create_time: datetime
    update_time: datetime


class ThreadOperations:
    """Create, get, list, rename, delete. `most` is how many threads a user may have."""

    def __init__(self, sessions: UserSessions, most: int) -> None:
        self._sessions = sessions
        self._most = most

    async def create(self, user: UserContext, call_id: str, request_id: str, title: str) -> Thread:
        """A new thread, or the one that this request made before; REQUEST_ID_REUSED, LIMIT_EXCEEDED."""
        check_id(request_id, "request_id")
        values = {
            **_owner(user),
            "request_id": request_id,
            "title": check_title(title),
            "thread_id": new_id("thread"),
            "most": self._most,
        }
        async with self._sessions.open(user, call_id) as connection:
            await connection.execute(ADD_THREAD, values)
            row = (await connection.execute(GET_THREAD_OF_REQUEST, values)).one_or_none()
        if row is None:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                f"You have {self._most} threads, as many as may; delete some.",
                metadata={"limit": "threads", "value": str(self._most)},
                retry_seconds=60.0,
            )
        if row.title != title and row.thread_id != values["thread_id"] and row.create_time == row.update_time:
            raise CarrelError(
                Kind.RACED,
                "REQUEST_ID_REUSED",
                f"The request_id {request_id} has made another thread already; take a new one for a new thread.",
                metadata={"request_id": request_id},
            )
        return Thread(*row)

    async def get(self, user: UserContext, call_id: str, thread_id: str) -> Thread:
        """The thread; THREAD_NOT_FOUND."""
        check_id(thread_id, "thread_id")
        async with self._sessions.open(user, call_id) as connection:
            row = (await connection.execute(GET_THREAD, {**_owner(user), "thread_id": thread_id})).one_or_none()
        if row is None:
            raise thread_not_found(thread_id)
        return Thread(*row)

    async def list(self, user: UserContext, call_id: str, asked: int, token: str) -> tuple[Sequence[Thread], str]:
        """A page of threads, newest first, and the token of the next page; empty on the last."""
        page = Page.newest_first("threads", asked, token)
        values = {**_owner(user), "create_time": page.create_time, "thread_id": page.id, "count": page.size + 1}
        async with self._sessions.open(user, call_id) as connection:
            found = [Thread(*row) for row in await connection.execute(LIST_THREADS, values)]
        if len(found) <= page.size:
            return found, ""
        last = found[page.size - 1]
        return found[: page.size], page.token_after(last.create_time, last.thread_id)

    async def rename(self, user: UserContext, call_id: str, thread_id: str, title: str) -> Thread:
        """The thread with its new title; THREAD_NOT_FOUND."""
        check_id(thread_id, "thread_id")
        values = {**_owner(user), "thread_id": thread_id, "title": check_title(title)}
        async with self._sessions.open(user, call_id) as connection:
            row = (await connection.execute(RENAME_THREAD, values)).one_or_none()
        if row is None:
            raise thread_not_found(thread_id)
        return Thread(*row)

    async def delete(self, user: UserContext, call_id: str, thread_id: str) -> None:
        """Deletes the thread; THREAD_NOT_FOUND."""
        check_id(thread_id, "thread_id")
        async with self._sessions.open(user, call_id) as connection:
            row = (await connection.execute(DELETE_THREAD, {**_owner(user), "thread_id": thread_id})).one_or_none()
        if row is None:
            raise thread_not_found(thread_id)


def check_title(title: str) -> str:
    """The title as it is; INVALID_ARGUMENT when it is too long or holds what no store takes."""
    if len(title) > MAX_TITLE:
        raise invalid("title", f"title has {len(title)} characters; it has at most {MAX_TITLE}.")
    if "\0" in title or any(not character.isprintable() for character in title):
        raise invalid("title", "title has control characters; use text of one line.")
    return title


def thread_not_found(thread_id: str) -> CarrelError:
    """The thread is absent or another user's: the same answer."""
    return CarrelError(
        Kind.NOT_FOUND,
        "THREAD_NOT_FOUND",
        f"You have no thread {thread_id}; ListThreads lists yours.",
        metadata={"thread_id": thread_id},
    )


def _owner(user: UserContext) -> dict[str, object]:
    return {"tenant_id": user.tenant_id, "user_id": user.user_id}
