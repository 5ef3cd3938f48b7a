"""The worker: takes runs from the queue while it has room and runs each as a task of its own. It knows no SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_execution.attempt.attempt import Attempt, Stop, Workshop
from carrel_execution.clients import Credential
from carrel_execution.domain import ClaimedRun
from carrel_execution.queue.store import Held
from carrel_execution.queue.waiting import woken


class Place:
    """Room for one run that is being accepted. Either the run begins in it, or it is free again at the end of the block.

    When the block ends in an error, nobody knows whether the run was accepted: if it was, it goes back into the queue.
    """

    def __init__(self, worker: Worker, run_id: str) -> None:
        self._worker = worker
        self.run_id = run_id
        self.begun = False

    def begin(self, run: ClaimedRun, credential: asyncio.Future[Credential] | None = None) -> None:
        """The run is this worker's, as attempt 1; `credential` is its context, on its way."""
        self.begun = True
        self._worker.begin(run, credential)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._worker.leave(None if self.begun or error is None else self.run_id)


class Worker:
    """The attempts that this process works on."""

    def __init__(self, workshop: Workshop) -> None:
        self.attempts: dict[tuple[str, int], Attempt] = {}
        """By run and epoch."""
        self._workshop = workshop
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._draining = False
        self._places = 0
        self._line_is_empty = False
        self._doubtful: set[asyncio.Task[None]] = set()
        # Held from a claim to its attempts: a drain waits for it, or runs that were just taken would be nobody's.
        self._claiming = asyncio.Lock()

    @property
    def has_room(self) -> bool:
        """Whether another run could begin here now."""
        return not self._draining and self._room > 0

    @property
    def _room(self) -> int:
        return self._workshop.settings.worker_capacity - len(self.attempts) - self._places

    def place(self, run_id: str) -> Place | None:
        """Room for a run that need not wait in the line: None when there is none here, or when others may be waiting in it."""
        if not self.has_room or not self._line_is_empty or self._news.is_set():
            return None
        self._places += 1
        return Place(self, run_id)

    def leave(self, doubtful_run_id: str | None) -> None:
        """A place is free again, but for the attempt that has begun in it."""
        self._places -= 1
        if doubtful_run_id is not None:
            task = asyncio.create_task(self._give_back(doubtful_run_id))
            self._doubtful.add(task)
            task.add_done_callback(self._doubtful.discard)

    async def _give_back(self, run_id: str) -> None:
        try:
            if await self._workshop.queue.give_back([run_id]):
                self.wake()
        except CarrelError as error:
            # Its lease runs out, as that of a lost worker.
            get_logger().warning("run.left_to_its_lease", run_id=run_id, reason=error.reason)

    @property
    def name(self) -> str:
        """By which the leases of its runs are held."""
        return self._workshop.queue.worker

    def fetch_credential(self, grant: bytes, run_id: str, thread_id: str, agent: str) -> asyncio.Future[Credential]:
        """Begins to fetch the context of a run's first attempt."""
        task = asyncio.create_task(self._workshop.contexts.for_attempt(grant, run_id, thread_id, agent, 1))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may come to ask for it
        return task

    def wake(self) -> None:
        """There may be something in the queue."""
        self._news.set()

    def cancel(self, run_id: str, reason: str) -> bool:
        """Stops a run for its user; false when it is not here."""
        here = [attempt for attempt in self.attempts.values() if attempt.run_id == run_id]
        for attempt in here:
            attempt.stop(Stop.CANCELLED, reason)
        return bool(here)

    def heed(self, asked: Iterable[tuple[str, int]], held: Iterable[Held]) -> None:
        """Takes in what a renewal has found: what is to be cancelled, and what is no longer ours."""
        ours = {(run.run_id, run.epoch): run for run in held}
        for key in asked:
            attempt = self.attempts.get(key)
            if attempt is None:
                continue
            found = ours.get(key)
            if found is None and not attempt.finishing:
                attempt.stop(Stop.LOST)
            elif found is not None and found.cancel_requested:
                attempt.stop(Stop.CANCELLED, found.cancel_reason)

    async def run(self) -> None:
        """For ever: claims when woken, and each second whether woken or not."""
        while True:
            more = False
            try:
                more = await self._claim()
            except CarrelError as error:
                get_logger().warning("worker.waits", reason=error.reason)
            except Exception:
                get_logger().exception("worker.failed")
            if not more:
                await woken(self._news, self._workshop.settings.poll_seconds)

    async def _claim(self) -> bool:
        """Takes what there is room for; true when there is more to take."""
        settings = self._workshop.settings
        async with self._claiming:
            room = self._room
            if room <= 0 or self._draining:
                return False
            claimed = await self._workshop.queue.claim(
                room, lease_seconds=settings.lease_seconds, running_limit=settings.running_runs_per_user
            )
            for run in claimed:
                self.begin(run)
        more = bool(claimed) and (len(claimed) == room or any(run.more for run in claimed))
        self._line_is_empty = not more
        return more

    def begin(self, run: ClaimedRun, credential: asyncio.Future[Credential] | None = None) -> None:
        """Works on a run that this worker has taken."""
        attempt = Attempt(run, self._workshop, credential)
        self.attempts[run.key] = attempt
        task = asyncio.create_task(attempt.work())
        self._tasks[run.key] = task
        task.add_done_callback(lambda done: self._ended(attempt, done))

    def _ended(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        was_full = not self.has_room
        if was_full:
            self._line_is_empty = False  # nobody has looked while there was no room
        del self.attempts[attempt.run.key], self._tasks[attempt.run.key]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The lease runs out and another attempt follows; nothing is lost but time.
            get_logger().error("run.broken", run_id=attempt.run_id, error=repr(error), exc_info=error)
        if attempt.user_waits or attempt.run.shares_places or was_full:
            self.wake()

    async def drain(self, seconds: float) -> None:
        """Claims nothing more, lets the runs go on so long, and gives back those that are not done: another process goes on."""
        self._draining = True
        async with self._claiming:
            pass
        if self._doubtful:
            await asyncio.wait(self._doubtful, timeout=1.0)
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        left = dict(self._tasks)
        for attempt in list(self.attempts.values()):
            attempt.stop(Stop.GIVEN_BACK)
        if not left:
            return
        await asyncio.wait(left.values(), timeout=1.0)
        returned = await self._workshop.queue.give_back([run_id for run_id, _ in left])
        get_logger().info("worker.drained", left=len(left), given_back=returned)
