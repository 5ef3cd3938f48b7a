"""The operations on corpora: one method for each call. It owns the transactions and the order of file and row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from carrel_chassis.db.sessions import UserSessions
from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext
from carrel_chassis.ids import check_id, new_id
from carrel_chassis.logs import get_logger
from carrel_tools import repository
from carrel_tools.corpus_files import CorpusFiles, IncomingFile, corpus_invalid
from carrel_tools.domain import Corpus, corpus_not_found, page_size_of, page_token, read_page_token
from carrel_tools.limits import Slots
from carrel_tools.sandbox.sandbox import Sandbox
from carrel_tools.unbroken import unbroken

MEDIA_TYPE = "text/csv"
_CHECK_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class CorpusLimits:
    """What a user may store."""

    corpus_bytes: int
    user_bytes: int
    user_count: int


class CorpusOperations:
    """Uploads, looks up and deletes. A file is in its place before its row is, and leaves it after: a row always has its file."""

    def __init__(
        self, sessions: UserSessions, files: CorpusFiles, sandbox: Sandbox, limits: CorpusLimits, uploads: Slots
    ) -> None:
        self._sessions = sessions
        self._files = files
        self._sandbox = sandbox
        self._limits = limits
        self._uploads = uploads

    async def upload(
        self, user: UserContext, call_id: str, name: str, media_type: str, chunks: AsyncIterator[bytes]
    ) -> Corpus:
        """Stores what `chunks` bring; returns the corpus, the one that was there when the content is the same."""
        check_id(name, "name")
        if media_type != MEDIA_TYPE:
            raise invalid("media_type", f'media_type must be "{MEDIA_TYPE}".')
        with self._uploads.take(user.owner):
            room = await self._room(user, call_id, name)
            corpus_id = new_id("corpus")
            # No database session is open while the chunks come: their sender may take its time.
            with self._files.incoming(corpus_id, min(room, self._limits.corpus_bytes)) as file:
                await self._receive(file, chunks, room)
                columns = await self._columns(user, file)
                now = datetime.now(UTC)  # a placeholder: the database says the time
                corpus = Corpus(corpus_id, name, media_type, file.size_bytes, file.sha256, columns, now)
                return await unbroken(self._keep(user, call_id, file, corpus))

    async def get(self, user: UserContext, call_id: str, name: str) -> Corpus:
        """The corpus of this name; raises CORPUS_NOT_FOUND."""
        check_id(name, "name")
        async with self._sessions.open(user, call_id) as session:
            corpus = await repository.get_corpus(session, user, name)
        if corpus is None:
            raise corpus_not_found(name)
        return corpus

    async def list_page(self, user: UserContext, call_id: str, page_size: int, token: str) -> tuple[list[Corpus], str]:
        """A page by name, and the token of the next; empty on the last."""
        size = page_size_of(page_size)
        (after,) = read_page_token(token, "corpora", 1) if token else ("",)
        async with self._sessions.open(user, call_id) as session:
            corpora = await repository.list_corpora(session, user, after, size + 1)
        return corpora[:size], page_token("corpora", corpora[size - 1].name) if len(corpora) > size else ""

    async def every(self, user: UserContext, call_id: str) -> list[Corpus]:
        """All corpora of the user; there are at most `user_count`."""
        async with self._sessions.open(user, call_id) as session:
            return await repository.list_corpora(session, user, "", self._limits.user_count)

    async def delete(self, user: UserContext, call_id: str, name: str) -> None:
        """Deletes row and file; raises CORPUS_NOT_FOUND."""
        check_id(name, "name")
        await unbroken(self._delete(user, call_id, name))

    async def _delete(self, user: UserContext, call_id: str, name: str) -> None:
        async with self._sessions.open(user, call_id) as session:
            corpus_id = await repository.delete_corpus(session, user, name)
        if corpus_id is None:
            raise corpus_not_found(name)
        await self._files.remove(user, corpus_id)

    async def _room(self, user: UserContext, call_id: str, name: str) -> int:
        """The bytes that the user has left for this name; raises LIMIT_EXCEEDED when there can be no other corpus."""
        async with self._sessions.open(user, call_id) as session:
            count, used = await repository.other_corpora(session, user, name)
        return self._room_beside(count, used)

    def _room_beside(self, count: int, used: int) -> int:
        if count >= self._limits.user_count:
            raise _limit_exceeded("corpora", self._limits.user_count)
        return max(0, self._limits.user_bytes - used)

    async def _receive(self, file: IncomingFile, chunks: AsyncIterator[bytes], room: int) -> None:
        try:
            async for chunk in chunks:
                await file.write(chunk)
        except CarrelError as error:
            # The smaller of two limits was reached: say which.
            if error.metadata.get("limit") == "corpus_bytes" and room < self._limits.corpus_bytes:
                raise _limit_exceeded("user_corpora_bytes", self._limits.user_bytes) from None
            raise
        await file.finish()

    async def _columns(self, user: UserContext, file: IncomingFile) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                answer = await self._sandbox.ask(user.owner, {"do": "check", "path": str(file.path)}, _CHECK_SECONDS)
        except TimeoutError:
            raise corpus_invalid(f"The file could not be read within {_CHECK_SECONDS:g} s; split it.") from None
        if refused := answer.get("refused"):
            kind, message = refused
            raise corpus_invalid(
                message if kind == "csv" else "The file cannot be read as CSV with the memory of a query."
            )
        return tuple(answer["result"]["columns"])

    async def _keep(self, user: UserContext, call_id: str, file: IncomingFile, corpus: Corpus) -> Corpus:
        await self._files.keep(file, user, corpus.corpus_id)
        try:
            before, stored = await self._store(user, call_id, corpus)
        except CarrelError:
            await self._files.remove(user, corpus.corpus_id)
            raise
        except BaseException:
            # Whether the row was committed is not known: a file too many does no harm, one too few would.
            get_logger().exception("corpus.orphaned", corpus_id=corpus.corpus_id)
            raise
        if stored.corpus_id != corpus.corpus_id:
            await self._files.remove(user, corpus.corpus_id)
        elif before is not None:
            await self._files.remove(user, before.corpus_id)
        return stored

    async def _store(self, user: UserContext, call_id: str, corpus: Corpus) -> tuple[Corpus | None, Corpus]:
        """Writes the row; returns what stood in its place, and what stands there now."""
        async with self._sessions.open(user, call_id) as session:
            await repository.lock_corpora(session, user)
            before = await repository.find_corpus(session, user, corpus.name)
            if before is not None and before.name != corpus.name:
                raise invalid("name", f"You have a corpus {before.name}; names may not differ in case alone.")
            if before is not None and before.sha256 == corpus.sha256:
                return before, before
            room = self._room_beside(*await repository.other_corpora(session, user, corpus.name))
            if corpus.size_bytes > room:
                raise _limit_exceeded("user_corpora_bytes", self._limits.user_bytes)
            return before, await repository.store_corpus(session, user, corpus)


def _limit_exceeded(limit: str, value: int) -> CarrelError:
    return CarrelError(
        Kind.OVER_LIMIT,
        "LIMIT_EXCEEDED",
        f"You may store {value} ({limit}) and this would be more; delete a corpus first.",
        metadata={"limit": limit, "value": str(value)},
    )
