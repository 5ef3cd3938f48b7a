"""Events as they go on the wire: serialized once, sent to every reader. The only place that knows the wire format of messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from sys import intern

from carrel.api.events.v1 import event_pb2 as pb
from carrel.api.events.v1 import event_service_pb2
from carrel_events.domain import Cursor

_EVENTS = b"\x0a"
_POSITION = b"\x12"
_MORE = b"\x18\x01"
_CURSOR_OF_EVENT = b"\x12"
"""The keys of field 1 (`events`), 2 (`position`) and 3 (`more`) of the answers, and of field 2 (`cursor`) of an event."""

_FRAME_BYTES = 300
"""What a frame takes beside its bytes: itself, its numbers, its place in a list, and its part of the ids that frames share."""


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as an entry of `events`, and what it is sorted by. One without an offset is ephemeral: it is in no log."""

    epoch: int
    offset: int
    tenant_id: str
    user_id: str
    thread_id: str
    run_id: str
    type: str
    entry: bytes

    @classmethod
    def of(cls, event: bytes) -> Frame:
        """From a serialized event; raises DecodeError."""
        parsed = pb.Event.FromString(event)
        return cls(
            parsed.cursor.epoch,
            parsed.cursor.offset,
            # Frames are kept by the thousand, and most of a user's have these in common: interned, they are held once.
            intern(parsed.tenant_id),
            intern(parsed.user_id),
            intern(parsed.thread_id),
            intern(parsed.run_id),
            intern(parsed.type),
            _entry(_EVENTS, event),
        )

    @property
    def held_bytes(self) -> int:
        """What it takes in memory."""
        return len(self.entry) + _FRAME_BYTES

    @property
    def cursor(self) -> Cursor:
        """Its place in the log."""
        return Cursor(self.epoch, self.offset)

    def event(self) -> pb.Event:
        """The event itself, parsed anew."""
        # An entry of `events` alone is a whole message with one event.
        return event_service_pb2.SubscribeResponse.FromString(self.entry).events[0]


def placed(body: bytes, place: Cursor) -> bytes:
    """The event with its place in the log. A body has no cursor, and the fields of a message may come in any order."""
    return body + _entry(_CURSOR_OF_EVENT, _cursor(place))


def message(frames: Iterable[Frame], position: Cursor, *, more: bool = False) -> bytes:
    """A SubscribeResponse, or a ListEventsResponse."""
    entries = b"".join(frame.entry for frame in frames)
    return entries + _entry(_POSITION, _cursor(position)) + (_MORE if more else b"")


def copies(events: Iterable[bytes], position: Cursor) -> bytes:
    """What one process sends to the others: a SubscribeResponse too."""
    return b"".join(_entry(_EVENTS, event) for event in events) + _entry(_POSITION, _cursor(position))


def _entry(key: bytes, value: bytes) -> bytes:
    return key + _varint(len(value)) + value


def _cursor(cursor: Cursor) -> bytes:
    return b"\x08" + _varint(cursor.epoch) + b"\x10" + _varint(cursor.offset)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that there are more."""
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def merged(deltas: Sequence[tuple[int, Frame]]) -> list[tuple[int, Frame]]:
    """Deltas with those of one message made one, at the place of the first; each comes with the offset after which it came."""
    whole: dict[tuple[str, str], tuple[int, pb.Event]] = {}
    for after_offset, delta in deltas:
        event = delta.event()
        key = (delta.run_id, event.partial_result.message_id)
        if key in whole:
            whole[key][1].partial_result.delta += event.partial_result.delta
        else:
            whole[key] = (after_offset, event)
    return [(after_offset, Frame.of(event.SerializeToString())) for after_offset, event in whole.values()]
