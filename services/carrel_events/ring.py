"""The last events of users in memory: a ring for each user here, and one bound in bytes for all of them. It knows no stream."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from carrel_events.frames import Frame

RING_EVENTS = 1000
RING_BYTES = 1024 * 1024
_SLACK = 1.25
"""A ring is cut when it is so much too long, not at each event: cutting a list moves all of it."""
GREATEST_RING_BYTES = int(RING_BYTES * _SLACK)


class Rings:
    """The memory of all rings of a process: what is too much is taken from the ring that was used the longest ago, all of it at once."""

    def __init__(self, most_bytes: int) -> None:
        self.held_bytes = 0
        """What all rings hold together; at most `most_bytes`, which should be no less than the greatest ring."""
        self._most_bytes = most_bytes
        self._by_use: OrderedDict[Ring, None] = OrderedDict()
        """Those that hold anything, the one that was used last at the end."""
        metrics.get_meter("carrel").create_observable_gauge(
            "carrel.events.rings.held", [self._observed], unit="By", description="Events kept in memory for streams."
        )

    def used(self, ring: Ring) -> None:
        """A stream has read from it."""
        self._by_use.move_to_end(ring)

    def resized(self, ring: Ring, by: int) -> None:
        """It holds so many bytes more, or fewer. Empties others, or at last itself, when all together hold too many."""
        self.held_bytes += by
        if not len(ring):
            self._by_use.pop(ring, None)
        elif by > 0:
            self._by_use[ring] = None
            self._by_use.move_to_end(ring)
        while self.held_bytes > self._most_bytes:
            next(iter(self._by_use)).clear()

    def _observed(self, _: CallbackOptions) -> Iterable[Observation]:
        yield Observation(self.held_bytes)


class Ring:
    """A user's last events, dense and in order. It may be found empty at any time: what is gone is in the log."""

    # There is one for each user with a stream, also for those to whom nothing happens.
    __slots__ = ("_frames", "_rings", "held_bytes")

    def __init__(self, rings: Rings) -> None:
        self.held_bytes = 0
        self._rings = rings
        self._frames: list[Frame] = []

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: Frame) -> None:
        """Adds the next event; the oldest go when there are too many."""
        self._frames.append(frame)
        self._resize(frame.held_bytes)
        if len(self._frames) > RING_EVENTS * _SLACK or self.held_bytes > GREATEST_RING_BYTES:
            self._cut()

    def part(self, begin: int, most_events: int, most_bytes: int) -> Sequence[Frame]:
        """Those from this number on, counted from the oldest, which is 0: so many, or so many bytes, at most, but one if there is any."""
        found, size = self._frames[begin : begin + most_events], 0
        if found:
            self._rings.used(self)
        for number, frame in enumerate(found):
            size += len(frame.entry)
            if size > most_bytes:
                return found[: max(1, number)]
        return found

    def clear(self) -> None:
        """Lets all go."""
        self._frames = []
        self._resize(-self.held_bytes)

    def _cut(self) -> None:
        number = max(0, len(self._frames) - RING_EVENTS)
        size = sum(frame.held_bytes for frame in self._frames[:number])
        while self.held_bytes - size > RING_BYTES:
            size += self._frames[number].held_bytes
            number += 1
        del self._frames[:number]
        self._resize(-size)

    def _resize(self, by: int) -> None:
        self.held_bytes += by
        self._rings.resized(self, by)
