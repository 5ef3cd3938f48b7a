"""Copies of what was written, on their way to all who read now. It knows no stream and no SQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from carrel_events.domain import Append, Appended, Cursor
from carrel_events.frames import copies, placed

_COPIES_BYTES = 512 * 1024
"""NATS servers take 1 MiB in a message unless they are told otherwise."""

Owner = tuple[str, str]
Send = Callable[[Owner, bytes], Awaitable[None]]


class Publisher:
    """One message for each user of a commit, in the order of the log."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def publish(self, written: Sequence[tuple[Append, Appended]]) -> None:
        """Sends what is new, and what is only passed on, to the users of these appends."""
        users: dict[Owner, tuple[Cursor, list[bytes]]] = {}
        for append, appended in written:
            if not appended.stale:
                users.setdefault(append.user.owner, (appended.last, []))[1].extend(_events(append, appended))
        for owner, (last, events) in users.items():
            for batch in _in_batches(events):
                await self._send(owner, copies(batch, last))

    async def begun_anew(self, owner: Owner, position: Cursor) -> None:
        """Says that the log of this user has another epoch now."""
        await self._send(owner, copies((), position))


def _events(append: Append, appended: Appended) -> Iterator[bytes]:
    places = dict(zip(appended.new_ids, appended.new_offsets, strict=True))
    for event in append.sent:
        if event.ephemeral:
            yield event.body
        elif offset := places.get(event.event_id):
            yield placed(event.body, Cursor(appended.epoch, offset))


def _in_batches(events: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for event in events:
        if batch and size + len(event) > _COPIES_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event)
    if batch:
        yield batch
