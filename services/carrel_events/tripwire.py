"""The tripwire: the last look at events before the wire. It trusts nothing that came before it and knows nothing of how they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from opentelemetry import metrics

from carrel_chassis.identity import UserContext
from carrel_chassis.logs import get_logger


class Owned(Protocol):
    """What says of itself whose it is: an event, or a frame, which says what the bytes in it say."""

    @property
    def tenant_id(self) -> str: ...

    @property
    def user_id(self) -> str: ...


T = TypeVar("T", bound=Owned)


class Tripwire:
    """Lets only a user's own events through. Each that it stops is a fault of ours: counted, and logged as an error."""

    def __init__(self) -> None:
        self.blocked = 0
        """How many events it has stopped; must stay 0. The same as the counter `carrel_cross_user_blocked_total`."""
        self._counter = metrics.get_meter("carrel").create_counter(
            "carrel_cross_user_blocked_total",
            description="Events of another user stopped before the wire; must stay 0.",
        )
        self._counter.add(0)  # so that the series is there to alert on before anything happens

    def own_events(self, user: UserContext, events: Sequence[T]) -> list[T]:
        """The events that belong to the user, in their order."""
        tenant_id, user_id = user.owner
        own = [event for event in events if event.user_id == user_id and event.tenant_id == tenant_id]
        if len(own) < len(events):
            self._report(user, len(events) - len(own))
        return own

    def _report(self, user: UserContext, count: int) -> None:
        self.blocked += count
        self._counter.add(count)
        # Whose they are stays out of the log line of this user; the count and the reader are what an operator needs.
        get_logger().error("events.cross_user_blocked", tenant_id=user.tenant_id, user_id=user.user_id, count=count)
