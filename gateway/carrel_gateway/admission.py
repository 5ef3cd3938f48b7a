"""Admission: how much one user, one tenant and one method may ask of the gateway, and when it takes no more. It knows no face.

Over several replicas each holds its share of a limit, the limit divided by their number: together they never let more through,
whatever is down between them. Who talks to one of them alone gets that one's share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from carrel_chassis.errors import CarrelError, Kind
from carrel_chassis.identity import UserContext

_STREAM_RETRY_SECONDS = 1.0
_SHED_RETRY_SECONDS = 1.0
"""A refusal costs a good part of what an answer does: who comes back too soon keeps others from theirs."""
_SWEEP_AT_LEAST = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What all replicas together let through."""

    user_calls_per_second: float
    tenant_calls_per_second: float
    method_calls_per_second: Mapping[str, float] = field(default_factory=dict)
    """Of one user, by the method's name."""
    burst_seconds: float = 2.0
    """So much of a rate may come at once after a pause."""
    user_streams: int = 100
    tenant_streams: int = 2000
    calls_under_way: int = 1024
    """Of each replica, not shared out: what one process can answer soon."""
    replicas: int = 1


class Rate:
    """Token buckets of one limit, one for each key, each kept as a single number: the time at which it is full again."""

    def __init__(self, name: str, per_second: float, limits: Limits) -> None:
        self.name = name
        self.per_second = per_second
        self._interval = limits.replicas / per_second
        # A bucket that holds less than one call would let none through.
        self._depth = max(limits.burst_seconds, self._interval)
        self._full: dict[object, float] = {}
        self._sweep_at = _SWEEP_AT_LEAST

    def wait(self, key: object, now: float) -> float:
        """The seconds until there is room for one more; 0 when there is."""
        full = max(self._full.get(key, now), now)
        return max(0.0, full + self._interval - now - self._depth)

    def take(self, key: object, now: float) -> None:
        """Counts one."""
        self._full[key] = max(self._full.get(key, now), now) + self._interval
        if len(self._full) > self._sweep_at:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Forgets the buckets that are full: they say what a new one would. All are, soon after their users have gone."""
        self._full = {key: full for key, full in self._full.items() if full > now}
        self._sweep_at = max(_SWEEP_AT_LEAST, 2 * len(self._full))


class Gauge:
    """What is open of one limit, for each key."""

    def __init__(self, name: str, most: int, replicas: int) -> None:
        self.name = name
        self.most = most
        self._share = most // replicas
        self._open: Counter[object] = Counter()

    def full(self, key: object) -> bool:
        """Whether no more may be opened."""
        return self._open[key] >= self._share

    def opened(self, key: object) -> None:
        self._open[key] += 1

    def closed(self, key: object) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]


class Admission:
    """Lets calls and streams in, or refuses them with RESOURCE_EXHAUSTED (LIMIT_EXCEEDED) and the limit's name, value and wait.

    A gateway that has as many calls under way as it can answer soon refuses the next with UNAVAILABLE: those that it has taken
    keep their latency, and no user has done anything wrong.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of_user = Rate("user_calls_per_second", limits.user_calls_per_second, limits)
        self._of_tenant = Rate("tenant_calls_per_second", limits.tenant_calls_per_second, limits)
        self._of_method = {
            method: Rate(f"method_calls_per_second.{method}", per_second, limits)
            for method, per_second in limits.method_calls_per_second.items()
        }
        self._user_streams = Gauge("user_streams", limits.user_streams, limits.replicas)
        self._tenant_streams = Gauge("tenant_streams", limits.tenant_streams, limits.replicas)
        self._most_calls = limits.calls_under_way
        self._calls = 0

    @contextmanager
    def call(self, method: str, user: UserContext) -> Iterator[None]:
        """A unary call or an upload, for as long as the block takes."""
        if self._calls >= self._most_calls:
            raise _shed(self._most_calls)
        self._count(method, user)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    @contextmanager
    def stream(self, method: str, user: UserContext) -> Iterator[None]:
        """A stream, for as long as it is open."""
        gauges: tuple[tuple[Gauge, object], ...] = (
            (self._user_streams, user.owner),
            (self._tenant_streams, user.tenant_id),
        )
        for gauge, key in gauges:
            if gauge.full(key):
                raise over_limit(gauge.name, gauge.most, _STREAM_RETRY_SECONDS)
        self._count(method, user)
        for gauge, key in gauges:
            gauge.opened(key)
        try:
            yield
        finally:
            for gauge, key in gauges:
                gauge.closed(key)

    async def messages(
        self, method: str, user: UserContext, messages: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """The same messages, admitted when the first is asked for."""
        async with aclosing(messages):
            with self.stream(method, user):
                async for message in messages:
                    yield message

    def _count(self, method: str, user: UserContext) -> None:
        """Takes from every bucket, or from none."""
        now = self._clock()
        rates = [(self._of_user, user.owner), (self._of_tenant, user.tenant_id)]
        if (of_method := self._of_method.get(method)) is not None:
            rates.append((of_method, user.owner))
        for rate, key in rates:
            if wait := rate.wait(key, now):
                raise over_limit(rate.name, rate.per_second, wait)
        for rate, key in rates:
            rate.take(key, now)


def over_limit(limit: str, value: float, wait: float) -> CarrelError:
    """The refusal of what is over a limit, for so many seconds."""
    return CarrelError(
        Kind.OVER_LIMIT,
        "LIMIT_EXCEEDED",
        f"The limit {limit} of {value:g} is reached; try again in {wait:.2f} s.",
        metadata={"limit": limit, "value": f"{value:g}"},
        retry_seconds=wait,
    )


def _shed(most: int) -> CarrelError:
    return CarrelError(
        Kind.UNAVAILABLE,
        "UNAVAILABLE",
        f"This gateway has {most} calls under way and takes no more now; try again.",
        metadata={"limit": "calls_under_way", "value": str(most)},
        retry_seconds=_SHED_RETRY_SECONDS,
    )
