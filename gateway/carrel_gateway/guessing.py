"""Who sends wrong credentials again and again: after some of them an address may try no new ones for a while. It knows no face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from carrel_chassis.errors import CarrelError
from carrel_gateway.admission import Limits, Rate, over_limit

LIMIT = "wrong_credentials_per_second"
_WRONG = frozenset({"CREDENTIAL_INVALID", "CONTEXT_REVOKED"})


class Guessing:
    """Counts wrong credentials by the address that they come from. Credentials that are known to be good do not come here, so that
    others behind the same address go on; who has none sends nothing that costs anything."""

    def __init__(self, limits: Limits, per_second: float, clock: Callable[[], float]) -> None:
        self._rate = Rate(LIMIT, per_second, limits)
        self._clock = clock

    @contextmanager
    def attempt(self, source: str) -> Iterator[None]:
        """The block finds out whether a credential is good; raises RESOURCE_EXHAUSTED (LIMIT_EXCEEDED) before it does."""
        if wait := self._rate.wait(source, self._clock()):
            raise over_limit(LIMIT, self._rate.per_second, wait)
        try:
            yield
        except CarrelError as error:
            if error.reason in _WRONG:
                self._rate.take(source, self._clock())
            raise
