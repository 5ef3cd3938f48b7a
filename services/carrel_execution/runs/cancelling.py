"""Cancelling with proof: waits until the work of a run has stopped, and says what has and what has not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass

from carrel_chassis.errors import invalid
from carrel_chassis.identity import UserContext
from carrel_execution.domain import Run, State
from carrel_execution.queue.worker import Worker
from carrel_execution.runs.operations import Operations

MAX_WAIT_SECONDS = 30.0
_FIRST_LOOK_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class CancelledPart:
    """Something that the run was doing."""

    kind: str
    name: str
    step_id: str
    message: str
    stopped: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run as it is now, and what its parts have come to."""

    run: Run
    parts: Sequence[CancelledPart]


class Cancelling:
    """What CancelRun does."""

    def __init__(self, operations: Operations, worker: Worker) -> None:
        self._operations = operations
        self._worker = worker

    async def cancel(self, user: UserContext, call_id: str, run_id: str, reason: str, wait_seconds: float) -> Cancelled:
        """Asks the run to stop, and waits so long for it; RUN_NOT_FOUND."""
        if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
            raise invalid("wait", f"wait is {wait_seconds:g} s; it may be 0 to {MAX_WAIT_SECONDS:g} s.")
        run = await self._operations.cancel_run(user, call_id, run_id, reason)
        if not run.state.final and wait_seconds:
            run = await self._until_over(user, call_id, run, wait_seconds)
        return Cancelled(run, self._parts(run))

    async def _until_over(self, user: UserContext, call_id: str, run: Run, seconds: float) -> Run:
        """An attempt in this process tells when it has ended; those of others are looked for in the database."""
        pause = _FIRST_LOOK_SECONDS
        try:
            async with asyncio.timeout(seconds):
                while not run.state.final:
                    here = self._worker.attempts.get((run.run_id, run.epoch))
                    if here is not None:
                        await here.ended.wait()
                    else:
                        await asyncio.sleep(pause)
                        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                    run = await self._operations.get_run(user, call_id, run.run_id)
        except TimeoutError:
            pass
        return run

    def _parts(self, run: Run) -> Sequence[CancelledPart]:
        if run.state is State.CANCELLED and not run.cancel_report:
            return [CancelledPart("run", run.agent, "", "It was not being worked on.", stopped=True)]
        if run.state is State.CANCELLED:
            return [CancelledPart(**line) for line in json.loads(run.cancel_report)]
        if run.state.final:
            return []
        here = self._worker.attempts.get((run.run_id, run.epoch))
        if here is None:
            message = "Another process works on it; it has not said yet that this has stopped."
            return [CancelledPart("agent", run.agent, "", message, stopped=False)]
        message = "It has been told to stop, and has not yet."
        return [CancelledPart(part.kind, part.name, part.step_id, message, stopped=False) for part in here.doing()]
