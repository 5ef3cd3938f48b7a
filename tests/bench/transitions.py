"""The engine's own commits, without services around it: a run is accepted, claimed, journals three steps and ends, all durable.

No agent is called, no context is asked for and no event is sent: this is the floor under `engine`, and what PostgreSQL makes of it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from carrel_chassis.db.engine import Engine
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import new_id
from carrel_execution.domain import ClaimedRun, succeeded
from carrel.replay import StepKind, StepRecord, StepState
from carrel_execution.journal_store import JournalStore
from carrel_execution.queue import Queue, Sent
from carrel_execution.repository import Runs
from carrel_execution.start import Accepted, QueueLimits, ServiceRules, StartRequest

_EVENT = b"x" * 100
_NOBODY = UserContext(
    context_id="ctx-bench",
    tenant_id="tenant-bench",
    user_id="user-bench",
    session_id="session-bench",
    scopes=frozenset(),
    audiences=frozenset(),
    issue_time=0.0,
    expire_time=0.0,
    request_id="request-bench",
)


class Transitions:
    """The run engine's tables, moved as the service moves them."""

    def __init__(self, users: Engine, runner: Engine) -> None:
        self._sessions = UserSessions(users)
        self._queue = Queue(runner, "worker-bench")
        self._journal = JournalStore(runner)
        self._sent: list[Sent] = []

    async def rate(self, at_once: int, seconds: float) -> float:
        """Runs a second with so many users, each with one run at a time."""
        runs = 0
        end = time.perf_counter() + seconds

        async def loop(number: int) -> None:
            nonlocal runs
            user = replace(_NOBODY, user_id=f"user-{number}")
            while time.perf_counter() < end:
                await self._accept(user)
                for run in await self._queue.claim(1, lease_seconds=60.0, running_limit=4):
                    await self._work(run)
                    runs += 1

        forget = asyncio.create_task(self._forget_sent())
        begin = time.perf_counter()
        try:
            await asyncio.gather(*map(loop, range(at_once)))
        finally:
            forget.cancel()
            await asyncio.gather(forget, return_exceptions=True)
        return runs / (time.perf_counter() - begin)

    async def _accept(self, user: UserContext) -> None:
        run_id = new_id("run")
        async with self._sessions.open(user, run_id) as connection:
            accepted = await Runs(connection, user).accept(
                StartRequest(new_id("request"), "stepping", "{}"),
                run_id,
                grant=b"grant",
                event=_EVENT,
                limits=QueueLimits(queued=1000),
                rules=ServiceRules(),
            )
        assert isinstance(accepted, Accepted)

    async def _work(self, run: ClaimedRun) -> None:
        for number in ("1", "2", "3"):
            step = StepRecord(number, StepKind.LOCAL, f"number {number}", "", StepState.SUCCEEDED, number)
            assert (await self._journal.write(run, [step])).state == "RUNNING"
        ended = await self._queue.finish(run, succeeded({"sum": 6}), [_EVENT])
        assert ended.ended == "FINISHED"
        self._sent.append(Sent(run.tenant_id, run.user_id, run.run_id, ended.position))

    async def _forget_sent(self) -> None:
        """As the outbox does: what is sent is deleted four times a second."""
        while True:
            await asyncio.sleep(0.25)
            sent, self._sent = self._sent, []
            if sent:
                await self._queue.delete_sent(sent)
