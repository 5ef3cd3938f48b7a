"""What a process has done with instances of agents since its start: for the metrics page, and for operators. It knows no user."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from carrel.agent import RunPort

_MICROSECONDS = (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)

Place = Literal["loop", "process"]


class Durations:
    """How long something took, in so few numbers that they can be kept for ever. Not for times over a minute."""

    _FIRST_SECONDS = 1e-6
    _GROWTH = 1.25
    _BUCKETS = 81

    def __init__(self) -> None:
        self.count = 0
        self._counts = [0] * self._BUCKETS

    def add(self, seconds: float) -> None:
        """One more."""
        above = max(seconds / self._FIRST_SECONDS, 1.0)
        self._counts[min(math.ceil(math.log(above, self._GROWTH)), self._BUCKETS - 1)] += 1
        self.count += 1

    def seconds_at(self, share: float) -> float:
        """What this share of all took at most: at most a quarter too much. 0 when there was none."""
        left = share * self.count
        for bucket, count in enumerate(self._counts):
            left -= count
            if count and left <= 0:
                return float(self._FIRST_SECONDS * self._GROWTH**bucket)
        return 0.0


class InstanceCounts:
    """The counts of one factory, told to OpenTelemetry as they change."""

    def __init__(self) -> None:
        self.created = 0
        self.active = 0
        self.cleaned = 0
        self.not_cleaned = 0
        """Of the ended ones, those that did not close, or left tasks that would not end."""
        self.creation: dict[Place, Durations] = {"loop": Durations(), "process": Durations()}
        """How long it took until an instance was there: made in the loop, or its process."""
        self._contexts: WeakSet[RunPort] = WeakSet()
        meter = metrics.get_meter("carrel")
        self._active = meter.create_up_down_counter("carrel.agent.instances")
        self._cleanups = meter.create_counter("carrel.agent.cleanups")
        self._kept = meter.create_counter("carrel.agent.kept")
        self._seconds = meter.create_histogram(
            "carrel.agent.creation.duration",
            unit="s",
            explicit_bucket_boundaries_advisory=[each / 1e6 for each in _MICROSECONDS],
        )
        meter.create_observable_gauge("carrel.agent.contexts", [self._observed_contexts])

    @property
    def active_contexts(self) -> int:
        """How many contexts are in memory. More than `active` for long: an agent keeps what it should not."""
        return len(self._contexts)

    @property
    def cleanup_success_rate(self) -> float:
        """cleaned / all that ended, 0 to 1; 1 when none has ended."""
        ended = self.cleaned + self.not_cleaned
        return self.cleaned / ended if ended else 1.0

    def context_made(self, port: RunPort) -> None:
        """Counts a context for as long as it exists."""
        self._contexts.add(port)

    def begun(self, agent: str) -> None:
        """An instance is being made."""
        self.created += 1
        self.active += 1
        self._active.add(1, {"gen_ai.agent.name": agent})

    def made(self, agent: str, place: Place, seconds: float) -> None:
        """It is there, after so long."""
        self.creation[place].add(seconds)
        self._seconds.record(seconds, {"gen_ai.agent.name": agent, "place": place})

    def kept(self, agent: str) -> None:
        """It held something at its end that it should not have."""
        self._kept.add(1, {"gen_ai.agent.name": agent})

    def ended(self, agent: str, *, clean: bool) -> None:
        """It is gone."""
        self.active -= 1
        if clean:
            self.cleaned += 1
        else:
            self.not_cleaned += 1
        self._active.add(-1, {"gen_ai.agent.name": agent})
        self._cleanups.add(1, {"gen_ai.agent.name": agent, "clean": clean})

    def _observed_contexts(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.active_contexts)]
