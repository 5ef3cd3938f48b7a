"""How corpora are stored: in parts, under keys, resumed and erased; and that nobody reads them who has not the key."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_tools.corpus_store import PART_BYTES
from carrel_tools.keyring import Damaged, KeyRing, UserKey, read_masters
from tests.support.expect import eventually, refused
from tests.tools.conftest import CSV, Desk

Code = grpc.StatusCode
MIB = 1024 * 1024
LINES = b"".join(b"%07d,%s\n" % (number, b"x" * 100) for number in range(110_000))
"""12 MB of CSV: two whole parts and a piece of a third."""
LONG = b"number,text\n" + LINES


def own_files(desk: Desk) -> list[str]:
    folder = hashlib.sha256(desk.person.user_id.encode()).hexdigest()[:32]
    return [path for path in desk.files() if folder in path]


def header(**fields: object) -> pb.UploadCorpusRequest:
    values = {"name": "sales", "media_type": "text/csv", **fields}
    return pb.UploadCorpusRequest(header=pb.UploadHeader(**values))


async def send(desk: Desk, content: bytes, **fields: object):
    chunks = [pb.UploadCorpusRequest(chunk=content[begin : begin + MIB]) for begin in range(0, len(content), MIB)]
    call = desk.corpora.UploadCorpus(iter([header(**fields), *chunks]), metadata=desk.person.metadata, timeout=60)
    return (await call).corpus


async def download(desk: Desk, **fields: object) -> tuple[object, bytes]:
    call = desk.corpora.DownloadCorpus(pb.DownloadCorpusRequest(**fields), metadata=desk.person.metadata, timeout=60)
    corpus, content = None, bytearray()
    async for answer in call:
        if answer.WhichOneof("part") == "corpus":
            corpus = answer.corpus
        else:
            assert len(answer.chunk) <= MIB
            content += answer.chunk
    return corpus, bytes(content)


async def received(desk: Desk, upload_id: str) -> int:
    request = pb.GetUploadRequest(upload_id=upload_id)
    return (await desk.corpora.GetUpload(request, metadata=desk.person.metadata)).received_bytes


async def broken_off(desk: Desk, content: bytes, upload_id: str) -> None:
    """Sends the beginning and leaves when two parts have been kept."""

    async def messages() -> AsyncIterator[pb.UploadCorpusRequest]:
        yield header(upload_id=upload_id)
        for begin in range(0, len(content), MIB):
            yield pb.UploadCorpusRequest(chunk=content[begin : begin + MIB])
        await asyncio.Event().wait()

    async def two_parts() -> bool:
        try:
            return await received(desk, upload_id) == 2 * PART_BYTES
        except grpc.aio.AioRpcError:
            return False

    call = desk.corpora.UploadCorpus(messages(), metadata=desk.person.metadata)
    await eventually(two_parts)
    call.cancel()


async def test_what_was_uploaded_comes_back_whole_and_from_any_byte(desk: Desk):
    stored = await send(desk, LONG)
    for offset in (0, 1, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 17, len(LONG)):
        corpus, content = await download(desk, name="sales", offset=offset, corpus_id=stored.corpus_id)
        assert corpus == stored and content == LONG[offset:]
    assert stored.sha256 == hashlib.sha256(LONG).hexdigest() and len(own_files(desk)) == 3
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await download(desk, name="sales", offset=len(LONG) + 1)
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await download(desk, name="sales", corpus_id="corpus-of-before")


async def test_a_download_that_is_cancelled_is_the_callers_alone(desk: Desk):
    await send(desk, LONG)
    call = desk.corpora.DownloadCorpus(pb.DownloadCorpusRequest(name="sales"), metadata=desk.person.metadata)
    async for _ in call:
        break
    call.cancel()
    assert (await download(desk, name="sales"))[1] == LONG


async def test_a_broken_upload_goes_on_where_it_was(desk: Desk):
    await broken_off(desk, LONG[: 9 * MIB], "upload-a")
    assert await desk.names() == []
    kept = await received(desk, "upload-a")
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT") as refusal:
        await send(desk, CSV, upload_id="upload-a", offset=0)
    assert str(kept) in refusal.error.message
    corpus = await send(desk, LONG[kept:], upload_id="upload-a", offset=kept)
    assert (corpus.size_bytes, corpus.sha256) == (len(LONG), hashlib.sha256(LONG).hexdigest())
    assert (await download(desk, name="sales"))[1] == LONG
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await received(desk, "upload-a")


async def test_an_upload_that_broke_off_a_day_ago_is_removed_and_no_other(desk: Desk, other: Desk, own_process):
    for each in (desk, other):
        await broken_off(each, LONG[: 9 * MIB], "upload-a")
    assert own_files(desk) != []
    engine = create_async_engine(desk.system.database_url("carrel_tools"))
    async with engine.begin() as connection:
        for name, value in (("tenant_id", desk.person.tenant_id), ("user_id", desk.person.user_id)):
            await connection.execute(text(f"SELECT set_config('app.{name}', :value, true)"), {"value": value})
        await connection.execute(text("UPDATE corpus_upload SET create_time = now() - interval '25 hours'"))
    await engine.dispose()
    await own_process(CLEAN_SECONDS="0.2")

    async def removed() -> bool:
        return own_files(desk) == []

    await eventually(removed)
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await received(desk, "upload-a")
    assert await received(other, "upload-a") == 2 * PART_BYTES


async def test_an_upload_is_its_users_own(desk: Desk, other: Desk):
    await broken_off(desk, LONG[: 9 * MIB], "upload-a")
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await received(other, "upload-a")
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await send(other, CSV, upload_id="upload-a", offset=2 * PART_BYTES)
    await send(other, CSV, upload_id="upload-a")
    assert (await download(other, name="sales"))[1] == CSV
    assert await received(desk, "upload-a") == 2 * PART_BYTES
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await download(desk, name="sales")


async def test_an_upload_whose_digest_is_another_is_refused(desk: Desk):
    with refused(Code.INVALID_ARGUMENT, "CORPUS_INVALID") as refusal:
        await send(desk, CSV, sha256="0" * 64)
    assert hashlib.sha256(CSV).hexdigest() in refusal.error.message
    assert own_files(desk) == []
    await send(desk, CSV, sha256=hashlib.sha256(CSV).hexdigest())


async def test_the_same_content_again_leaves_one_copy(desk: Desk):
    first = await send(desk, LONG)
    again = await send(desk, LONG, upload_id="upload-a")
    assert again == first and len(own_files(desk)) == 3


async def test_nothing_of_a_corpus_can_be_read_on_the_disk(desk: Desk):
    await desk.upload("sales", b"name\nremarkable\n")
    (path,) = own_files(desk)
    assert b"remarkable" not in await asyncio.to_thread(Path(path).read_bytes)


async def test_a_part_of_another_user_or_place_is_not_read(desk: Desk, other: Desk):
    await send(desk, LONG)
    await send(other, LONG)
    first, second, _ = map(Path, own_files(desk))
    theirs = Path(own_files(other)[0])
    for foreign in (theirs, second):
        genuine = first.read_bytes()
        first.unlink()
        os.symlink(foreign, first)
        with refused(Code.INTERNAL, "INTERNAL"):
            await download(desk, name="sales")
        first.unlink()
        first.write_bytes(genuine)
    assert (await download(desk, name="sales"))[1] == LONG


async def test_erasing_leaves_nothing_that_the_bytes_could_be_read_with(desk: Desk, other: Desk):
    await desk.upload("sales", CSV)
    await desk.upload("more", CSV + b"x,1\n")
    await broken_off(desk, LONG[: 9 * MIB], "upload-a")
    await other.upload("sales", CSV)
    answer = await desk.corpora.EraseCorpora(pb.EraseCorporaRequest(), metadata=desk.person.metadata)
    assert answer.erased_corpora == 2
    assert await desk.names() == [] and own_files(desk) == []
    assert await keys_of(desk) == 0 and await keys_of(other) == 1
    assert (await download(other, name="sales"))[1] == CSV
    # The user begins anew, with another key.
    await desk.upload("sales", CSV)
    assert (await download(desk, name="sales"))[1] == CSV


async def keys_of(desk: Desk) -> int:
    connection = await asyncpg.connect(desk.system.database_url("postgres", driver="postgresql"))
    try:
        query = "SELECT count(*) FROM tools.corpus_key WHERE tenant_id = $1 AND user_id = $2"
        return int(await connection.fetchval(query, desk.person.tenant_id, desk.person.user_id))
    finally:
        await connection.close()


def test_a_key_opens_for_its_owner_its_label_and_its_master_only():
    ring = KeyRing({"new": b"n" * 32, "old": b"o" * 32})
    wrapped = ring.new_key(("acme", "ada"))
    key = ring.open(("acme", "ada"), wrapped)
    sealed = key.seal(b"content", "corpus/0")
    assert key.open(sealed, "corpus/0") == b"content"
    for attempt in (
        lambda: key.open(sealed, "corpus/1"),
        lambda: key.open(sealed[:-1], "corpus/0"),
        lambda: key.open(b"", "corpus/0"),
        lambda: UserKey(("acme", "eve"), key.secret).open(sealed, "corpus/0"),
        lambda: ring.open(("acme", "eve"), wrapped),
        lambda: KeyRing({"new": b"x" * 32}).open(("acme", "ada"), wrapped),
    ):
        with pytest.raises(Damaged):
            attempt()
    # After a change of the master key what the old one has closed is still opened.
    assert KeyRing({"newer": b"m" * 32, "new": b"n" * 32}).open(("acme", "ada"), wrapped).secret == key.secret


@pytest.mark.parametrize("text", ["", "\n", "short", "a b c", "name c2hvcnQ="])
def test_what_is_no_master_key_is_refused(text: str):
    with pytest.raises(ValueError, match="corpus key"):
        read_masters(text)
