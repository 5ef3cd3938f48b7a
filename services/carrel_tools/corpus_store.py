"""The bytes of corpora: encrypted parts in a folder or any object store. It knows no table and no format.

A corpus lies in parts of 4 MiB, each an object of its own, sealed under its user's key and labelled with its place. So an upload goes on
at the next part, a download begins at any, no part can stand for another, and a corpus is there when its row is.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from carrel_chassis.errors import CarrelError, Kind
from carrel_tools.keyring import Owner, UserKey
from carrel_tools.unbroken import unbroken

PART_BYTES = 4 * 1024 * 1024
"""Of every stored corpus: another number would need another label."""
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class CorpusStore:
    """Stores, reads and removes the parts of corpora."""

    def __init__(self, objects: ObjectStore, folder: Path | None) -> None:
        """`folder` is where the objects lie when they lie on a disk of this machine: they are then made durable one by one."""
        self._objects = objects
        self._folder = folder

    async def put(self, key: UserKey, corpus_id: str, number: int, content: bytes) -> None:
        """Stores a part, whole or not at all; it outlives a power failure when this returns."""
        path = _path(key.owner, corpus_id, number)
        sealed = await asyncio.to_thread(key.seal, content, f"{corpus_id}/{number}")
        await obstore.put_async(self._objects, path, sealed, use_multipart=False)
        if self._folder is not None:
            await asyncio.to_thread(_sync, self._folder / path)

    async def read(self, key: UserKey, corpus_id: str, size_bytes: int, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The content from `offset` on, in pieces of at most a part; raises UNAVAILABLE when it is removed meanwhile."""
        for number in range(offset // PART_BYTES, parts_of(size_bytes)):
            try:
                answer = await obstore.get_async(self._objects, _path(key.owner, corpus_id, number))
                sealed = bytes(await answer.bytes_async())
            except FileNotFoundError:
                raise corpus_changed() from None
            content = await asyncio.to_thread(key.open, sealed, f"{corpus_id}/{number}")
            yield content[max(0, offset - number * PART_BYTES) :]

    async def pour(
        self, key: UserKey, corpus_id: str, size_bytes: int, descriptor: int, digest: hashlib._Hash | None = None
    ) -> None:
        """Writes the content into a file in memory and seals it: nobody changes it any more, whoever holds it. `digest` takes it in too.

        Raises UNAVAILABLE when it is removed meanwhile.
        """
        buffer = memoryview(bytearray(min(PART_BYTES, size_bytes)))
        for number in range(parts_of(size_bytes)):
            path, label = _path(key.owner, corpus_id, number), f"{corpus_id}/{number}"
            # Never left half-way: a thread that writes on, when the file is closed, would write into another one of the same number.
            await unbroken(asyncio.to_thread(self._pour_part, key, path, label, buffer, descriptor, digest))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def _pour_part(
        self, key: UserKey, path: str, label: str, buffer: memoryview, descriptor: int, digest: hashlib._Hash | None
    ) -> None:
        try:
            sealed = memoryview(obstore.get(self._objects, path).bytes())
        except FileNotFoundError:
            raise corpus_changed() from None
        content = key.open_into(sealed, label, buffer)
        if digest is not None:
            digest.update(content)
        while content:
            content = content[os.write(descriptor, content) :]

    async def remove(self, owner: Owner, corpus_id: str, size_bytes: int) -> None:
        """Removes the parts of a corpus; nothing when they are gone."""
        for number in range(parts_of(size_bytes)):
            with contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._objects, _path(owner, corpus_id, number))

    async def remove_all(self, owner: Owner) -> None:
        """Removes all that this owner has stored."""
        async for batch in obstore.list(self._objects, _folder_of(owner)):
            for found in batch:
                with contextlib.suppress(FileNotFoundError):
                    await obstore.delete_async(self._objects, found["path"])


def open_store(folder: Path, url: str) -> CorpusStore:
    """The store at `url` ("s3://bucket/prefix", "gs://...", "az://..."; credentials from the environment), or the folder without one."""
    if url:
        return CorpusStore(from_url(url), None)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return CorpusStore(LocalStore(folder), folder)


@contextmanager
def memory_file() -> Iterator[int]:
    """A file in memory, without a name, gone with the block."""
    descriptor = os.memfd_create("corpus", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def parts_of(size_bytes: int) -> int:
    """How many parts so many bytes take."""
    return -(-size_bytes // PART_BYTES)


def corpus_changed() -> CarrelError:
    """It was there a moment ago."""
    return CarrelError(
        Kind.RACED,
        "UNAVAILABLE",
        "The corpus was replaced or deleted while it was read; ask again.",
        retry_seconds=0.1,
    )


def _path(owner: Owner, corpus_id: str, number: int) -> str:
    return f"{_folder_of(owner)}/{corpus_id}/{number:06}"


def _folder_of(owner: Owner) -> str:
    """Named by digests, so that no name of a tenant or user is ever part of a path."""
    return "/".join(hashlib.sha256(part.encode()).hexdigest()[:32] for part in owner)


def _sync(path: Path) -> None:
    for each in (path, path.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
