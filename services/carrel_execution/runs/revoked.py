"""Revocation, as runs see it: what waits is cancelled, what runs is stopped. Who revokes is none of its business."""

from __future__ import annotations

import asyncio

from carrel.api.context.v1 import user_context_pb2
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_chassis.logs import get_logger
from carrel_chassis.revocations import Revocation, What
from carrel_chassis.signing import decode_context
from carrel_execution.owner import owner_alone
from carrel_execution.runs.operations import Operations
from carrel_execution.runs.repository import Runs

_ATTEMPTS = 5
_AT_ONCE = 4
"""Within the number of database sessions that a user may have."""


class RevokedRuns:
    """Cancels the runs of whoever is revoked, in the background. A run that is missed is refused its context when it is claimed."""

    def __init__(self, sessions: UserSessions, operations: Operations) -> None:
        self._sessions = sessions
        self._operations = operations
        self._at_work: set[asyncio.Task[None]] = set()

    def heed(self, revocation: Revocation) -> None:
        """Takes in a change; returns at once."""
        if revocation.revoked and revocation.what is not What.SCOPE:
            task = asyncio.create_task(self._cancel_all(revocation))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)

    async def _cancel_all(self, revocation: Revocation) -> None:
        user = owner_alone(revocation.tenant_id, revocation.user_id)
        for attempt in range(_ATTEMPTS):
            try:
                reason = f"The {revocation.what.lower()} has been revoked."
                turns = asyncio.Semaphore(_AT_ONCE)
                async with asyncio.TaskGroup() as tasks:
                    for run_id in await self._runs(user, revocation):
                        tasks.create_task(self._cancel(user, run_id, reason, turns))
                return
            except Exception as error:
                get_logger().warning("revoked.waits", error=repr(error), version=revocation.version)
            await asyncio.sleep(0.1 * 2**attempt)

    async def _cancel(self, user: UserContext, run_id: str, reason: str, turns: asyncio.Semaphore) -> None:
        async with turns:
            await self._operations.cancel_run(user, new_id("call"), run_id, reason)

    async def _runs(self, user: UserContext, revocation: Revocation) -> list[str]:
        """The runs that are not over and that the revocation means."""
        if revocation.what is What.RUN:
            wanted = revocation.value
            async with self._sessions.open(user, new_id("call")) as connection:
                run = await Runs(connection, user).get(wanted)
            return [wanted] if run is not None and not run.state.final else []
        async with self._sessions.open(user, new_id("call")) as connection:
            grants = await Runs(connection, user).live_grants()
        return [run_id for run_id, grant in grants if revocation.stops(_granted(grant))]

    async def close(self) -> None:
        """Ends what is at work."""
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)


def _granted(grant: bytes) -> UserContext:
    return decode_context(user_context_pb2.SignedUserContext.FromString(grant).context)
