"""The operations on corpora: one method for each call. It owns the transactions and the order of parts, key and row."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from carrel_chassis import pages
from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id
from carrel_tools import corpus_repository as repository
from carrel_tools import corpus_store
from carrel_tools.corpus_check import CorpusCheck
from carrel_tools.corpus_store import CorpusStore
from carrel_tools.domain import Corpus, Upload, corpus_not_found
from carrel_tools.formats import MEDIA_TYPES
from carrel_tools.keyring import KeyRing, UserKey
from carrel_tools.limits import Slots
from carrel_tools.unbroken import unbroken
from carrel_tools.uploads import Announced, Received, UploadOperations


@dataclass(frozen=True, slots=True)
class CorpusLimits:
    """What a user may store."""

    corpus_bytes: int
    user_bytes: int
    user_count: int


class CorpusOperations:
    """Uploads, looks up, hands out and deletes. Parts are in their places before a row is, and leave after it: a row has its parts."""

    def __init__(
        self,
        sessions: UserSessions,
        store: CorpusStore,
        keys: KeyRing,
        check: CorpusCheck,
        limits: CorpusLimits,
        uploads: Slots,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._keys = keys
        self._check = check
        self._limits = limits
        self._slots = uploads
        self._uploads = UploadOperations(sessions, store)

    async def upload(
        self, user: UserContext, call_id: str, announced: Announced, chunks: AsyncIterator[bytes]
    ) -> Corpus:
        """Stores what `chunks` bring; returns the corpus, the one that was there when the content is the same."""
        check_id(announced.name, "name")
        if announced.media_type not in MEDIA_TYPES:
            raise invalid("media_type", f"media_type must be one of {', '.join(MEDIA_TYPES)}.")
        with self._slots.take(user.owner):
            room = await self._room(user, call_id, announced)
            key = await self.key(user, call_id)
            # No database session is open while the chunks come: their sender may take its time.
            async with self._uploads.receiving(user, call_id, key, announced) as received:
                most = min(room, self._limits.corpus_bytes)
                try:
                    await received.take_all(chunks, most)
                except CarrelError as error:
                    # The smaller of two limits was reached: say which.
                    if error.metadata.get("limit") == "corpus_bytes" and room < self._limits.corpus_bytes:
                        raise _limit_exceeded("user_corpora_bytes", self._limits.user_bytes) from None
                    raise
                corpus = await self._checked(user, key, received, announced)
                return await unbroken(self._keep(user, call_id, received, corpus))

    async def get(self, user: UserContext, call_id: str, name: str) -> Corpus:
        """The corpus of this name; raises CORPUS_NOT_FOUND."""
        check_id(name, "name")
        async with self._sessions.open(user, call_id) as session:
            corpus = await repository.get_corpus(session, user, name)
        if corpus is None:
            raise corpus_not_found(name)
        return corpus

    async def get_content(self, user: UserContext, call_id: str, name: str, corpus_id: str, offset: int) -> Corpus:
        """The corpus, when its content is still the one meant; raises CORPUS_NOT_FOUND, and INVALID_ARGUMENT beyond its end."""
        corpus = await self.get(user, call_id, name)
        if corpus_id and corpus_id != corpus.corpus_id:
            raise corpus_not_found(name)
        if offset > corpus.size_bytes:
            raise invalid("offset", f"offset is {offset} and the corpus has {corpus.size_bytes} bytes.")
        return corpus

    async def received_bytes(self, user: UserContext, call_id: str, upload_id: str) -> int:
        """How much of an upload is kept; raises CORPUS_NOT_FOUND."""
        check_id(upload_id, "upload_id")
        return await self._uploads.received_bytes(user, call_id, upload_id)

    async def list_page(self, user: UserContext, call_id: str, page_size: int, token: str) -> tuple[list[Corpus], str]:
        """A page by name, and the token of the next; empty on the last."""
        size = pages.page_size(page_size)
        (after,) = pages.read_token(token, "corpora", 1) if token else ("",)
        async with self._sessions.open(user, call_id) as session:
            corpora = await repository.list_corpora(session, user, after, size + 1)
        return corpora[:size], pages.write_token("corpora", corpora[size - 1].name) if len(corpora) > size else ""

    async def every(self, user: UserContext, call_id: str) -> list[Corpus]:
        """All corpora of the user; there are at most `user_count`."""
        async with self._sessions.open(user, call_id) as session:
            return await repository.list_corpora(session, user, "", self._limits.user_count)

    async def read(
        self, user: UserContext, call_id: str, corpus: Corpus, offset: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """The content of a corpus of the user from `offset` on, in pieces of at most 4 MiB."""
        key = await self.key(user, call_id)
        async for piece in self._store.read(key, corpus.corpus_id, corpus.size_bytes, offset):
            yield piece

    @asynccontextmanager
    async def opened(self, user: UserContext, call_id: str, corpora: Sequence[Corpus]) -> AsyncIterator[list[int]]:
        """A sealed file in memory with the content of each corpus; gone with the block."""
        async with AsyncExitStack() as stack:
            descriptors = []
            key = await self.key(user, call_id) if corpora else None
            for corpus in corpora:
                assert key is not None
                descriptor = stack.enter_context(corpus_store.memory_file())
                await self._store.pour(key, corpus.corpus_id, corpus.size_bytes, descriptor)
                descriptors.append(descriptor)
            yield descriptors

    async def rename(self, user: UserContext, call_id: str, name: str, new_name: str) -> Corpus:
        """Gives a corpus another name; raises CORPUS_NOT_FOUND, INVALID_ARGUMENT when the new name is taken."""
        check_id(name, "name")
        check_id(new_name, "new_name")
        async with self._sessions.open(user, call_id) as session:
            await repository.lock_corpora(session, user)
            taken = await repository.find_corpus(session, user, new_name)
            if taken is not None and taken.name != name:
                raise _name_taken(taken.name)
            corpus = await repository.rename_corpus(session, user, name, new_name)
        if corpus is None:
            raise corpus_not_found(name)
        return corpus

    async def delete(self, user: UserContext, call_id: str, name: str) -> None:
        """Deletes row and parts; raises CORPUS_NOT_FOUND."""
        check_id(name, "name")
        await unbroken(self._delete(user, call_id, name))

    async def erase(self, user: UserContext, call_id: str) -> int:
        """Deletes the user's key, and then all that was encrypted under it; returns how many corpora there were."""
        return await unbroken(self._erase(user, call_id))

    async def key(self, user: UserContext, call_id: str) -> UserKey:
        """The key of the user; made when there is none."""
        async with self._sessions.open(user, call_id) as session:
            wrapped = await repository.get_key(session, user)
            if wrapped is None:
                await repository.add_key(session, user, self._keys.new_key(user.owner))
                wrapped = await repository.get_key(session, user)
                assert wrapped is not None
        return self._keys.open(user.owner, wrapped)

    async def _delete(self, user: UserContext, call_id: str, name: str) -> None:
        async with self._sessions.open(user, call_id) as session:
            corpus = await repository.delete_corpus(session, user, name)
        if corpus is None:
            raise corpus_not_found(name)
        await self._store.remove(user.owner, corpus.corpus_id, corpus.size_bytes)

    async def _erase(self, user: UserContext, call_id: str) -> int:
        async with self._sessions.open(user, call_id) as session:
            await repository.lock_corpora(session, user)
            count = await repository.erase(session, user)
        await self._store.remove_all(user.owner)
        return count

    async def _room(self, user: UserContext, call_id: str, announced: Announced) -> int:
        """The bytes that the user has left for this name; raises LIMIT_EXCEEDED when there can be no other corpus."""
        async with self._sessions.open(user, call_id) as session:
            count, used = await repository.other_corpora(session, user, announced.name, announced.upload_id)
        return self._room_beside(count, used)

    def _room_beside(self, count: int, used: int) -> int:
        if count >= self._limits.user_count:
            raise _limit_exceeded("corpora", self._limits.user_count)
        return max(0, self._limits.user_bytes - used)

    async def _checked(self, user: UserContext, key: UserKey, received: Received, announced: Announced) -> Corpus:
        """Reads what has been stored, as a reader will; raises CORPUS_INVALID."""
        upload = received.upload
        async with self._check.turn(user.owner, received.size_bytes) as turn:
            with corpus_store.memory_file() as descriptor:
                digest = hashlib.sha256()
                await self._store.pour(key, upload.corpus_id, received.size_bytes, descriptor, digest)
                sha256 = digest.hexdigest()
                if announced.sha256 and announced.sha256.lower() != sha256:
                    raise invalid("sha256", f"What has come has the SHA-256 {sha256}; send it again.", "CORPUS_INVALID")
                found = await turn.check(upload.media_type, descriptor)
        now = datetime.now(UTC)  # a placeholder: the database says the time
        size = received.size_bytes
        return Corpus(upload.corpus_id, upload.name, upload.media_type, size, sha256, found.columns, found.types, now)

    async def _keep(self, user: UserContext, call_id: str, received: Received, corpus: Corpus) -> Corpus:
        before, stored = await self._store_row(user, call_id, received.upload, corpus)
        received.kept = stored.corpus_id == corpus.corpus_id
        if received.kept and before is not None:
            await self._store.remove(user.owner, before.corpus_id, before.size_bytes)
        return stored

    async def _store_row(
        self, user: UserContext, call_id: str, upload: Upload, corpus: Corpus
    ) -> tuple[Corpus | None, Corpus]:
        """Writes the row; returns what stood in its place, and what stands there now."""
        async with self._sessions.open(user, call_id) as session:
            await repository.lock_corpora(session, user)
            if await repository.get_key(session, user) is None:
                # All was erased meanwhile: these bytes can no longer be read.
                raise corpus_store.corpus_changed()
            before = await repository.find_corpus(session, user, corpus.name)
            if before is not None and before.name != corpus.name:
                raise _name_taken(before.name)
            await repository.delete_upload(session, user, upload.upload_id)
            if before is not None and (before.sha256, before.media_type) == (corpus.sha256, corpus.media_type):
                return before, before
            beside = await repository.other_corpora(session, user, corpus.name, upload.upload_id)
            if corpus.size_bytes > self._room_beside(*beside):
                raise _limit_exceeded("user_corpora_bytes", self._limits.user_bytes)
            return before, await repository.store_corpus(session, user, corpus)


def _name_taken(name: str) -> CarrelError:
    return invalid("name", f"You have a corpus {name}; names may not differ in case alone.")


def _limit_exceeded(limit: str, value: int) -> CarrelError:
    return CarrelError(
        Kind.OVER_LIMIT,
        "LIMIT_EXCEEDED",
        f"You may store {value} ({limit}) and this would be more; delete a corpus first.",
        metadata={"limit": limit, "value": str(value)},
    )
