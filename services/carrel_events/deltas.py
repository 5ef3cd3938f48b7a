"""Deltas that wait for one reader: ephemeral, so they may be merged or forgotten, and never take more than a little memory."""

from __future__ import annotations

from collections import deque

from carrel_events.frames import Frame, merged

_MOST_BYTES = 64 * 1024
_MERGE_BYTES = 16 * 1024


class Deltas:
    """A queue of ephemeral events, each with the offset after which it came.

    With `merges`, deltas of one message become one when too many wait; beyond that the oldest are forgotten.
    """

    def __init__(self, merges: bool) -> None:
        self._merges = merges
        self._waiting: deque[tuple[int, Frame]] | tuple[()] = ()
        # Most streams never see one: there is no queue before it is needed.
        self._bytes = 0

    def put(self, after_offset: int, delta: Frame) -> None:
        """Adds one."""
        waiting = self._waiting or deque()
        self._waiting = waiting
        waiting.append((after_offset, delta))
        self._bytes += len(delta.entry)
        if self._merges and self._bytes > _MERGE_BYTES:
            self._waiting = waiting = self._merged(waiting)
        while self._bytes > _MOST_BYTES:
            self._bytes -= len(waiting.popleft()[1].entry)

    def take(self, before_offset: int) -> list[Frame]:
        """Those that came before the event with this offset, in order; they wait no longer."""
        taken = []
        while isinstance(self._waiting, deque) and self._waiting and self._waiting[0][0] < before_offset:
            delta = self._waiting.popleft()[1]
            self._bytes -= len(delta.entry)
            taken.append(delta)
        return taken

    def forget(self) -> None:
        """Drops them all: the reader has fallen behind, and the finished texts are in the log."""
        self._waiting, self._bytes = (), 0

    def __len__(self) -> int:
        return len(self._waiting)

    def _merged(self, waiting: deque[tuple[int, Frame]]) -> deque[tuple[int, Frame]]:
        whole = deque(merged(list(waiting)))
        self._bytes = sum(len(delta.entry) for _, delta in whole)
        return whole
