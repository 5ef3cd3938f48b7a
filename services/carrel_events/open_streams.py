"""How many streams a user may hold open at a time; it knows nothing of what goes through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext

_ALL = ""
"""Stands for all users of a tenant; no user's id is empty."""


class OpenStreams:
    """How many streams each user, and each tenant, has open in this process."""

    def __init__(self, per_user: int) -> None:
        self._per_user = per_user
        self._open: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def one_of(self, user: UserContext) -> Iterator[None]:
        """Counts one stream for the block; raises LIMIT_EXCEEDED when the user has as many as allowed."""
        limit = user.limits.open_streams or self._per_user
        whole, tenant_limit = (user.tenant_id, _ALL), user.tenant_limits.open_streams
        if self._open[user.owner] >= limit:
            raise _too_many(f"You have {limit} streams open; close one first.", limit)
        if tenant_limit and self._open[whole] >= tenant_limit:
            raise _too_many(f"Your tenant has {tenant_limit} streams open, as many as may.", tenant_limit)
        counted = (user.owner, whole)
        for key in counted:
            self._open[key] += 1
        try:
            yield
        finally:
            for key in counted:
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]


def _too_many(message: str, limit: int) -> CarrelError:
    metadata = {"limit": "open_streams", "value": str(limit)}
    return CarrelError(Kind.OVER_LIMIT, "LIMIT_EXCEEDED", message, metadata=metadata, retry_seconds=1.0)
