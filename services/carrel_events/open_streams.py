"""How many streams a user may hold open at a time; it knows nothing of what goes through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext


class OpenStreams:
    """How many streams each user has open in this process."""

    def __init__(self, per_user: int) -> None:
        self._per_user = per_user
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one_of(self, user: UserContext) -> Iterator[None]:
        """Counts one stream for the block; raises LIMIT_EXCEEDED when the user has as many as allowed."""
        limit = user.limits.open_streams or self._per_user
        if self._open[user.owner] >= limit:
            raise CarrelError(
                Kind.OVER_LIMIT,
                "LIMIT_EXCEEDED",
                f"You have {limit} streams open; close one first.",
                metadata={"limit": "open_streams", "value": str(limit)},
            )
        self._open[user.owner] += 1
        try:
            yield
        finally:
            self._open[user.owner] -= 1
            if not self._open[user.owner]:
                del self._open[user.owner]
