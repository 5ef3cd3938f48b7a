"""Who sends wrong credentials again and again: after some of them an address may try no new ones for a while. It knows no face."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Network, ip_address

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
        origin = origin_of(source)
        if wait := self._rate.wait(origin, self._clock()):
            raise over_limit(LIMIT, self._rate.per_second, wait)
        try:
            yield
        except CarrelError as error:
            if error.reason in _WRONG:
                self._rate.take(origin, self._clock())
            raise


def origin_of(address: str) -> str:
    """What one guesser is taken to have: an IPv4 address, or all of an IPv6 network of 64 bits, which is what one customer gets."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return address
    # A server that listens on both kinds sees the older one within the newer.
    return str(found.ipv4_mapped or IPv6Network((found.packed, 64), strict=False))
