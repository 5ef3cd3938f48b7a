"""Uploads on their way: cut into parts, stored as they come, and gone on with after a break. It knows no format."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_tools import corpus_repository as repository
from carrel_tools.corpus_store import PART_BYTES, CorpusStore
from carrel_tools.domain import Upload
from carrel_tools.keyring import UserKey
from carrel_tools.unbroken import unbroken

MAX_CHUNK_BYTES = 1024 * 1024
_MOST_OPEN = 8
"""Uploads that a user may have broken off; the oldest beyond are forgotten."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What the caller says of a file before it comes."""

    name: str
    media_type: str
    upload_id: str = ""
    """Empty for an upload that is not gone on with."""
    offset: int = 0
    sha256: str = ""
    """Of all of it; empty when the caller does not know."""


class Received:
    """What has come of an upload: whole parts are stored at once, the last one at the end."""

    def __init__(
        self, user: UserContext, call_id: str, key: UserKey, upload: Upload, operations: UploadOperations
    ) -> None:
        self.upload = upload
        self.size_bytes = upload.received_bytes
        self.kept: bool | None = None
        """Whether a row holds it; None as long as that is not decided."""
        self._user = user
        self._call_id = call_id
        self._key = key
        self._operations = operations
        self._pending = bytearray()

    async def take_all(self, chunks: AsyncIterator[bytes], most_bytes: int) -> None:
        """Stores what comes; raises TOO_LARGE as soon as there is too much, CORPUS_INVALID when there is nothing."""
        async for chunk in chunks:
            if len(chunk) > MAX_CHUNK_BYTES:
                raise too_large("chunk_bytes", MAX_CHUNK_BYTES, "A chunk is too large")
            self.size_bytes += len(chunk)
            if self.size_bytes > most_bytes:
                raise too_large("corpus_bytes", most_bytes, "The file is too large")
            self._pending += chunk
            if len(self._pending) >= PART_BYTES:
                await self._store(bytes(self._pending[:PART_BYTES]))
                del self._pending[:PART_BYTES]
        if self.size_bytes == 0:
            raise invalid("chunk", "The file is empty.", "CORPUS_INVALID")
        if self._pending:
            await self._operations.store_part(self._key, self.upload, bytes(self._pending))

    async def _store(self, part: bytes) -> None:
        await self._operations.store_part(self._key, self.upload, part)
        self.upload = await self._operations.advance(self._user, self._call_id, self.upload, len(part))


class UploadOperations:
    """Begins uploads, goes on with them, and forgets them."""

    def __init__(self, sessions: UserSessions, store: CorpusStore) -> None:
        self._sessions = sessions
        self._store = store

    @asynccontextmanager
    async def receiving(
        self, user: UserContext, call_id: str, key: UserKey, announced: Announced
    ) -> AsyncIterator[Received]:
        """An upload to be filled. What was stored is removed at the end, unless it was kept or can be gone on with."""
        upload = await self._begun(user, call_id, announced)
        received = Received(user, call_id, key, upload, self)
        refused = False
        try:
            yield received
        except CarrelError as error:
            refused = error.kind in (Kind.INVALID, Kind.OVER_LIMIT)  # going on would come to the same
            raise
        finally:
            undecided = received.kept is None and announced.upload_id and received.size_bytes > 0
            if not received.kept and (refused or not undecided):
                await unbroken(self._forget(user, call_id, replace(upload, received_bytes=received.size_bytes)))

    async def received_bytes(self, user: UserContext, call_id: str, upload_id: str) -> int:
        """How much is kept; raises CORPUS_NOT_FOUND."""
        async with self._sessions.open(user, call_id) as session:
            upload = await repository.get_upload(session, user, upload_id)
        if upload is None:
            raise _upload_not_found(upload_id)
        return upload.received_bytes

    async def store_part(self, key: UserKey, upload: Upload, part: bytes) -> None:
        """Stores the part that follows what is stored."""
        await self._store.put(key, upload.corpus_id, upload.received_bytes // PART_BYTES, part)

    async def advance(self, user: UserContext, call_id: str, upload: Upload, more: int) -> Upload:
        """Notes that a part is stored; raises UNAVAILABLE when another stream has stored it."""
        further = replace(upload, received_bytes=upload.received_bytes + more)
        if not upload.upload_id:
            return further
        async with self._sessions.open(user, call_id) as session:
            alone = await repository.advance_upload(
                session, user, upload.upload_id, upload.received_bytes, further.received_bytes
            )
        if not alone:
            raise CarrelError(Kind.RACED, "UNAVAILABLE", "Another stream sends this upload; ask how far it has come.")
        return further

    async def _begun(self, user: UserContext, call_id: str, announced: Announced) -> Upload:
        new = Upload(announced.upload_id, new_id("corpus"), announced.name, announced.media_type)
        if not announced.upload_id:
            return _at(announced, new)
        check_id(announced.upload_id, "upload_id")
        async with self._sessions.open(user, call_id) as session:
            await repository.lock_corpora(session, user)
            found = await repository.get_upload(session, user, announced.upload_id)
            stale = await repository.stale_uploads(session, user, announced.upload_id, _MOST_OPEN)
            upload = _at(announced, found or new)
            if found is None:
                await repository.add_upload(session, user, new)
        for each in stale:
            await self._store.remove(user.owner, each.corpus_id, each.received_bytes)
        return upload

    async def _forget(self, user: UserContext, call_id: str, upload: Upload) -> None:
        if upload.upload_id:
            async with self._sessions.open(user, call_id) as session:
                await repository.delete_upload(session, user, upload.upload_id)
        await self._store.remove(user.owner, upload.corpus_id, upload.received_bytes)


def _at(announced: Announced, upload: Upload) -> Upload:
    if (announced.name, announced.media_type) != (upload.name, upload.media_type):
        raise invalid("upload_id", "The upload was begun for another name or media type; choose another upload_id.")
    if announced.offset != upload.received_bytes:
        message = f"{upload.received_bytes} bytes of the upload are kept; go on there."
        raise invalid("offset", message)
    return upload


def _upload_not_found(upload_id: str) -> CarrelError:
    return CarrelError(
        Kind.NOT_FOUND,
        "CORPUS_NOT_FOUND",
        f"There is no upload {upload_id} to go on with; begin anew.",
        metadata={"name": upload_id},
    )


def too_large(limit: str, value: int, message: str) -> CarrelError:
    """More bytes than may come."""
    return CarrelError(
        Kind.OVER_LIMIT,
        "TOO_LARGE",
        f"{message}: at most {value} bytes.",
        metadata={"limit": limit, "value": str(value)},
    )
