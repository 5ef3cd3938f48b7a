"""What an attempt tells its user: through its emitter into the log, and at its end by way of the outbox, so that nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from carrel.api.events.v1 import event_pb2 as pb
from carrel_chassis.errors import CarrelError
from carrel_chassis.logs import get_logger
from carrel_execution.attempt import events
from carrel_execution.attempt.credentials import ContextRefused, Credentials
from carrel_execution.attempt.emitter import Emitter
from carrel_execution.clients import Log, passes, persist
from carrel_execution.domain import ClaimedRun
from carrel_execution.queue.outbox import Outbox
from carrel_execution.queue.store import Sent

_LAST_APPEND_SECONDS = 2.0


class Telling:
    """The events of one attempt, those first that an earlier one has left in the outbox.

    `on_failure` is told when nothing more of this attempt can reach the log: its user may no longer act, or another attempt has it.
    """

    def __init__(
        self,
        run: ClaimedRun,
        log: Log,
        outbox: Outbox,
        credentials: Credentials,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._run = run
        self._log = log
        self._outbox = outbox
        self._credentials = credentials
        self._emitter = Emitter(self._send, on_failure)
        for event in run.unsent:
            self._emitter.put(pb.Event.FromString(event))
        self._left = len(run.unsent)
        """How many of those, the first to be told, are not known to be in the log."""

    def start(self) -> None:
        """Begins to send."""
        self._emitter.start()

    def put(self, event: pb.Event) -> None:
        """Adds an event without waiting for room; for the few that a run itself makes."""
        self._emitter.put(event)

    async def emit(self, event: pb.Event) -> None:
        """Adds an event of an agent; waits while too many are not in the log yet."""
        await self._emitter.emit(event)

    async def settle(self, seconds: float) -> list[pb.Event]:
        """Gives what is under way so long to arrive, then lets it go; returns what is not known to be in the log."""
        return await self._emitter.settle(seconds)

    def unsent(self) -> list[pb.Event]:
        """What the user has not been told yet, as far as is known, but for what is in the outbox already. No further batch begins."""
        return self._emitter.seal()[self._left :]

    async def tell(self, last: Sequence[pb.Event], position: int, count: int) -> None:
        """Sends the last events at once, of which so many are in the outbox up to the position. If that fails, the relay sends them."""
        try:
            for batch in events.batches(last):
                await self._credentials.call(
                    lambda signed, batch=batch: self._log.append(signed, batch, _LAST_APPEND_SECONDS)  # type: ignore[misc]
                )
        except (CarrelError, ContextRefused) as error:
            later = not isinstance(error, CarrelError) or passes(error)
            get_logger().warning("events.left_to_relay", run_id=self._run.run_id, error=str(error), later=later)
            return
        if self._left:
            self._forget(0, self._run.unsent_position)
        self._forget(position - count + 1, position)

    async def _send(self, batch: Sequence[pb.Event]) -> None:
        """Returns when the batch is in the log, or can never be because there is something wrong with it."""
        run_id = self._run.run_id
        try:
            await persist(lambda: self._append(batch), "AppendEvents", run_id)
        except CarrelError as error:
            if error.reason == "STALE_ATTEMPT":
                raise
            get_logger().error("events.refused", run_id=run_id, reason=error.reason, count=len(batch))
        if self._left:
            self._left = max(0, self._left - len(batch))
            if not self._left:
                self._forget(0, self._run.unsent_position)

    async def _append(self, batch: Sequence[pb.Event]) -> None:
        await self._credentials.call(lambda signed: self._log.append(signed, batch))

    def _forget(self, first: int, last: int) -> None:
        run = self._run
        self._outbox.sent(Sent(run.tenant_id, run.user_id, run.run_id, last, first))
