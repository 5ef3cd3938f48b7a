"""The files of corpora: where each lies, and how one comes to lie there whole or not at all. It knows no table and no format."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from carrel_chassis.errors import CarrelError, Kind, invalid
from carrel_chassis.identity import UserContext

MAX_CHUNK_BYTES = 1024 * 1024
_STALE_SECONDS = 3600.0
"""An upload takes at most 600 s: what is older was left by a process that was killed."""


class CorpusFiles:
    """A folder for each user, named by digests, so that no name of a tenant or user is ever part of a path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"

    def open(self) -> None:
        """Makes the folders, and removes what killed uploads have left behind; called once, at the start."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._incoming.mkdir(mode=0o700, exist_ok=True)
        oldest = time.time() - _STALE_SECONDS
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def path(self, user: UserContext, corpus_id: str) -> Path:
        """Where a corpus of this user lies."""
        return self._folder / _digest(user.tenant_id) / _digest(user.user_id) / f"{corpus_id}.csv"

    @contextmanager
    def incoming(self, corpus_id: str, max_bytes: int) -> Iterator[IncomingFile]:
        """A file to write an upload into; gone at the end of the block unless it was kept."""
        path = self._incoming / f"{corpus_id}.part"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                yield IncomingFile(path, file, max_bytes)
        finally:
            path.unlink(missing_ok=True)

    async def keep(self, file: IncomingFile, user: UserContext, corpus_id: str) -> None:
        """Moves a written file to its place, durably."""
        await asyncio.to_thread(_move, file.path, self.path(user, corpus_id))

    async def remove(self, user: UserContext, corpus_id: str) -> None:
        """Removes the file of a corpus; nothing when it is gone."""
        await asyncio.to_thread(self.path(user, corpus_id).unlink, missing_ok=True)


class IncomingFile:
    """An upload on its way: written, counted and checked as it comes."""

    def __init__(self, path: Path, file: BinaryIO, max_bytes: int) -> None:
        self.path = path
        self.size_bytes = 0
        self._file = file
        self._max_bytes = max_bytes
        self._sha256 = hashlib.sha256()
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    @property
    def sha256(self) -> str:
        """Of what has come so far, in hexadecimal."""
        return self._sha256.hexdigest()

    async def write(self, chunk: bytes) -> None:
        """Takes the next piece; raises TOO_LARGE as soon as there is too much, CORPUS_INVALID for what is no text."""
        if len(chunk) > MAX_CHUNK_BYTES:
            raise too_large("chunk_bytes", MAX_CHUNK_BYTES, "A chunk is too large")
        if self.size_bytes + len(chunk) > self._max_bytes:
            raise too_large("corpus_bytes", self._max_bytes, "The file is too large")
        self._check(chunk, final=False)
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)
        await asyncio.to_thread(self._file.write, chunk)

    async def finish(self) -> None:
        """Says that all has come; raises CORPUS_INVALID when it ends within a character or holds nothing."""
        self._check(b"", final=True)
        if self.size_bytes == 0:
            raise corpus_invalid("The file is empty; its first line must name the columns.")
        await asyncio.to_thread(os.fsync, self._file.fileno())

    def _check(self, chunk: bytes, *, final: bool) -> None:
        pending = len(self._decoder.getstate()[0])
        if (nul := chunk.find(b"\x00")) >= 0:
            raise corpus_invalid(f"Byte {self.size_bytes + nul} of the file is zero; it must be text in UTF-8.")
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            offset = self.size_bytes - pending + error.start
            raise corpus_invalid(f"Byte {offset} of the file is not UTF-8; save it in that encoding.") from None


def too_large(limit: str, value: int, message: str) -> CarrelError:
    """More bytes than may come."""
    return CarrelError(
        Kind.OVER_LIMIT,
        "TOO_LARGE",
        f"{message}: at most {value} bytes.",
        metadata={"limit": limit, "value": str(value)},
    )


def corpus_invalid(message: str) -> CarrelError:
    """The file is not what it claims to be."""
    return invalid("chunk", message, "CORPUS_INVALID")


def _move(source: Path, target: Path) -> None:
    target.parent.parent.mkdir(mode=0o700, exist_ok=True)
    target.parent.mkdir(mode=0o700, exist_ok=True)
    source.rename(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name too must outlive a power failure
    finally:
        os.close(folder)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:32]
