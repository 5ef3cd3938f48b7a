"""The journal of one attempt: what those before it have left, and the way for what it adds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn, Protocol

from carrel.replay import MAX_BYTES, MAX_STEPS, Journal, StepKind, StepRecord, StepState
from carrel_execution.clients import persist
from carrel_execution.domain import ClaimedRun
from carrel_execution.journal.store import JournalStore, Standing


class Holder(Protocol):
    """The attempt, as its journal sees it."""

    over: bool

    async def leave(self, standing: Standing) -> NoReturn:
        """The run is no longer this attempt's to go on with."""

    async def give_up(self, reason: str, message: str) -> NoReturn:
        """Ends the run FAILED, whatever its agent would rather do."""


class RunJournal:
    """What a run has done, for its agents. A step is written for this attempt only as long as it holds the run."""

    def __init__(self, run: ClaimedRun, store: JournalStore, holder: Holder) -> None:
        self.before = Journal(retry=run.retries)
        """What the attempts before this one have left."""
        self._run = run
        self._store = store
        self._holder = holder
        self._held_back: list[StepRecord] = []
        self._flushing = asyncio.Lock()
        self._steps = 0
        self._bytes = 0

    async def open(self) -> None:
        """Reads what there is. The first attempt has nothing to read, and pays nothing."""
        if self._run.epoch > 1:
            self.before = await persist(lambda: self._store.read(self._run), "read_journal", self._run.run_id)

    async def keep(self, step: StepRecord) -> None:
        """Returns when the step is in the journal, with all that was held back before it."""
        if self._held_back:
            await self._count(step)
            self._held_back.append(step)
            await self.flush()
        else:
            await self._count(step)
            await self._write([step])

    async def hold_back(self, step: StepRecord) -> None:
        """Has the step written before anything else of this run reaches the world."""
        await self._count(step)
        self._held_back.append(step)

    async def flush(self) -> None:
        """Returns when everything that was held back is in the journal."""
        if self._held_back or self._flushing.locked():
            async with self._flushing:
                held_back, self._held_back = self._held_back, []
                if held_back:
                    await self._write(held_back)

    async def close(self) -> None:
        """Writes what a reader of the journal should find. Times that nothing has followed from are let go."""
        self._held_back = [step for step in self._held_back if step.kind is not StepKind.LOCAL]
        await self.flush()

    async def _count(self, step: StepRecord) -> None:
        if step.state is not StepState.INTENDED:
            self._steps += 1
        self._bytes += len(step.result_json)
        if self._steps > MAX_STEPS or self._bytes > MAX_BYTES:
            message = f"The run has more than {MAX_STEPS} steps, or {MAX_BYTES} bytes of results; do the work in several runs."
            await self._holder.give_up("JOURNAL_FULL", message)

    async def _write(self, steps: Sequence[StepRecord]) -> None:
        if self._holder.over:
            raise asyncio.CancelledError("the run is over")
        standing = await persist(lambda: self._store.write(self._run, steps), "write_steps", self._run.run_id)
        if standing.state != "RUNNING":
            await self._holder.leave(standing)
