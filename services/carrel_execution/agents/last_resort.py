"""What a worker does that has to end at once because of one of its runs: that run ends, and the others go on elsewhere without delay."""

from __future__ import annotations

from collections.abc import Mapping

from carrel_chassis.db.open import cross_user_database
from carrel_chassis.logs import get_logger
from carrel_execution import domain
from carrel_execution.attempt import events
from carrel_execution.attempt.attempt import Attempt
from carrel_execution.queue.store import Queue


class LastResort:
    """Works in any loop, over a connection that it opens for this: those of the process belong to the loop that stands."""

    def __init__(
        self,
        database_url: str,
        worker: str,
        attempts: Mapping[tuple[str, int], Attempt],
    ) -> None:
        self._database_url = database_url
        self._worker = worker
        self._attempts = attempts

    async def __call__(self, run_id: str, cause: str) -> None:
        """Ends the run as DEAD of this cause; gives back all others of this worker."""
        attempts = list(self._attempts.values())
        async with cross_user_database(self._database_url, 1) as engine:
            queue = Queue(engine, self._worker)
            for attempt in attempts:
                if attempt.run_id == run_id:
                    outcome = domain.died(cause)
                    last = events.final(run_id, attempt.run.agent, attempt.now(), outcome)
                    rows = [event.SerializeToString() for event in (*attempt.unsent(), last)]
                    ended = await queue.finish(attempt.run, outcome, rows)
                    get_logger().error("run.ended_by_watchdog", run_id=run_id, ended=ended.ended)
            others = [attempt.run_id for attempt in attempts if attempt.run_id != run_id]
            given_back = await queue.give_back(others) if others else 0
            get_logger().error("worker.gives_up", given_back=given_back, of=len(others))
