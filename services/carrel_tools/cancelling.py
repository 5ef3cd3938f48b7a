"""Cancelling one tool call from beside, and saying what is known of it then. What became of the call is read from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from carrel_chassis.db.engine import Connection
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_tools import domain, repository
from carrel_tools.cancel_requests import add_cancel, remove_cancel
from carrel_tools.domain import Outcome, ToolCall
from carrel_tools.limits import Slots
from carrel_tools.unbroken import unbroken

MAX_WAIT_SECONDS = 30.0
DEFAULT_WAIT_SECONDS = 2.0
"""Long enough for a process that looks by itself because the bus is away."""
_FIRST_LOOK_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.2


class Cancellation(Enum):
    """What a cancel has come to."""

    STOPPED = "it was stopped by a cancel, this one or an earlier"
    ENDED = "it had ended by itself"
    NOT_STOPPED = "it is not known to have stopped"


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel has come to, and the call's line of the ledger, where there is one by now."""

    cancellation: Cancellation
    tool_call: ToolCall | None


class Cancelling:
    """What CancelTool does. `announce` tells all processes that there is a new request."""

    def __init__(self, sessions: UserSessions, slots: Slots, announce: Callable[[], Awaitable[None]]) -> None:
        self._sessions = sessions
        self._slots = slots
        self._announce = announce

    async def cancel(
        self, user: UserContext, call_id: str, tool_call_id: str, wait_seconds: float = DEFAULT_WAIT_SECONDS
    ) -> Cancelled:
        """Asks whoever executes the call to stop it, and waits so long for its end; TOOL_CALL_NOT_FOUND when the ledger has no such call
        and nobody was executing it. What has been heard in time will stop, also if that takes longer than the answer."""
        domain.check_tool_call_id(tool_call_id)
        if not 0 < wait_seconds <= MAX_WAIT_SECONDS:
            raise invalid("wait", f"wait is {wait_seconds:g} s; it may be up to {MAX_WAIT_SECONDS:g} s, and not 0.")
        with self._slots.take(user.owner):
            return await self._cancel(user, call_id, tool_call_id, wait_seconds)

    async def _cancel(self, user: UserContext, call_id: str, tool_call_id: str, wait_seconds: float) -> Cancelled:
        cancel_id = new_id("cancel")
        async with self._sessions.open(user, call_id) as session:
            line = await repository.find_line(session, user, tool_call_id)
            if _over(line):
                return _cancelled(line)
            await add_cancel(session, user, cancel_id, tool_call_id)
        try:
            await self._announce()
            await self._until_over(user, call_id, tool_call_id, wait_seconds)
        finally:
            heard, line = await unbroken(self._withdraw(user, call_id, cancel_id, tool_call_id))
        if line is None and not heard:
            raise domain.tool_call_not_found()
        return _cancelled(line)

    async def _until_over(self, user: UserContext, call_id: str, tool_call_id: str, seconds: float) -> None:
        pause = _FIRST_LOOK_SECONDS
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                    async with self._sessions.open(user, call_id) as session:
                        if _over(await repository.find_line(session, user, tool_call_id)):
                            return
        except TimeoutError:
            return

    async def _withdraw(
        self, user: UserContext, call_id: str, cancel_id: str, tool_call_id: str
    ) -> tuple[bool, ToolCall | None]:
        """Whether the request was heard, and the line as it is when nobody can hear it any more."""
        session: Connection
        async with self._sessions.open(user, call_id) as session:
            heard = await remove_cancel(session, user, cancel_id)
            return heard, await repository.find_line(session, user, tool_call_id)


def _over(line: ToolCall | None) -> bool:
    return line is not None and line.outcome is not Outcome.INTENDED


def _cancelled(line: ToolCall | None) -> Cancelled:
    if line is None or not _over(line):
        return Cancelled(Cancellation.NOT_STOPPED, line)
    stopped = line.error_reason == domain.CANCELLED
    return Cancelled(Cancellation.STOPPED if stopped else Cancellation.ENDED, line)
