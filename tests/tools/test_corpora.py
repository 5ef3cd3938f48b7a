"""Corpora through real calls: what is stored, what is refused, what is left behind, and that they are one user's."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import grpc
import pytest

from carrel.api.tools.v1 import tool_service_pb2 as pb
from carrel_tools.consent import digest_of
from tests.support.expect import eventually, refused
from tests.tools.administration import consent
from tests.tools.conftest import CSV, Desk

Code = grpc.StatusCode
MIB = 1024 * 1024


def own_files(desk: Desk) -> list[str]:
    folder = hashlib.sha256(desk.person.user_id.encode()).hexdigest()[:32]
    return [path for path in desk.files() if folder in path]


async def test_an_uploaded_file_is_known_and_readable(desk: Desk):
    corpus = await desk.upload("sales", CSV[:7], CSV[7:])
    assert (corpus.size_bytes, corpus.sha256) == (len(CSV), hashlib.sha256(CSV).hexdigest())
    assert (
        await desk.corpora.GetCorpus(pb.GetCorpusRequest(name="sales"), metadata=desk.person.metadata)
    ).corpus == corpus
    assert (await desk.result("sql_query", sql="SELECT count(*) FROM sales"))["rows"] == [[4]]
    (path,) = own_files(desk)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700


async def test_the_same_content_is_the_same_corpus_and_other_content_replaces_it(desk: Desk):
    first = await desk.upload("sales", CSV)
    assert await desk.upload("sales", CSV) == first
    second = await desk.upload("sales", CSV + b"eve,5\n")
    assert second.corpus_id != first.corpus_id
    assert [os.path.basename(os.path.dirname(path)) for path in own_files(desk)] == [second.corpus_id]
    assert (await desk.result("sql_query", sql="SELECT count(*) FROM sales"))["rows"] == [[5]]


async def test_another_user_neither_sees_nor_deletes_it(desk: Desk, other: Desk):
    await desk.upload("sales", CSV)
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await other.corpora.GetCorpus(pb.GetCorpusRequest(name="sales"), metadata=other.person.metadata)
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await other.corpora.DeleteCorpus(pb.DeleteCorpusRequest(name="sales"), metadata=other.person.metadata)
    assert await other.names() == []
    await other.upload("sales", b"x\n1\n")
    assert await desk.names() == ["sales"] and len(own_files(desk)) == 1
    assert (await desk.result("sql_query", sql="SELECT count(*) FROM sales"))["rows"] == [[4]]


async def test_a_deleted_corpus_is_gone_with_its_file(desk: Desk):
    await desk.upload("sales", CSV)
    await desk.corpora.DeleteCorpus(pb.DeleteCorpusRequest(name="sales"), metadata=desk.person.metadata)
    assert await desk.names() == [] and own_files(desk) == []
    with refused(Code.NOT_FOUND, "CORPUS_NOT_FOUND"):
        await desk.corpora.DeleteCorpus(pb.DeleteCorpusRequest(name="sales"), metadata=desk.person.metadata)


async def test_an_administrator_deletes_own_corpora_by_tool(desk: Desk, other: Desk):
    await desk.upload("sales", CSV)
    admin = ("tools.use", "corpora.admin")
    with refused(Code.FAILED_PRECONDITION, "APPROVAL_REQUIRED"):
        await desk.execute("corpus_delete", scopes=admin, name="sales")
    digest = digest_of("corpus_delete", {"name": "sales"})
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await other.execute("corpus_delete", scopes=admin, approval=consent(other, digest), name="sales")
    assert refusal.error.metadata == {"tool_reason": "CORPUS_NOT_FOUND"}
    assert await desk.names() == ["sales"]
    await desk.execute("corpus_delete", scopes=admin, approval=consent(desk, digest), name="sales")
    assert await desk.names() == [] and own_files(desk) == []


async def test_corpora_page_by_name(desk: Desk):
    for name in ("c", "a", "b"):
        await desk.upload(name, CSV)
    request = pb.ListCorporaRequest(page_size=2)
    first = await desk.corpora.ListCorpora(request, metadata=desk.person.metadata)
    request.page_token = first.next_page_token
    second = await desk.corpora.ListCorpora(request, metadata=desk.person.metadata)
    assert [corpus.name for corpus in (*first.corpora, *second.corpora)] == ["a", "b", "c"]
    assert not second.next_page_token


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "blank"),
        (b"\n\n", "blank"),
        (b"a,b\n\xff\n", "Byte 4"),
        (b"a,b\n1,\xe2\x82", "Byte 6"),
        (b"a,b\n1,\x00\n", "Byte 6"),
        (b"a,b\n1,2\n1,2,3,4\n", "line 3"),
        (b'a,b\n"open,2\n', "line 2"),
        (b'a,b\n"x\ny",2\n3\n"open,2\n4,5\n', "line 6"),
        (b"a,b\r\n1,2\n3,4\r\n", "line ends"),
        (b'"a,b\n1,2', "first line"),
        (b",".join(b"c%d" % n for n in range(1001)) + b"\n", "1001 columns"),
    ],
)
async def test_a_file_that_is_no_csv_is_refused_and_says_where(desk: Desk, content: bytes, says: str):
    with refused(Code.INVALID_ARGUMENT, "CORPUS_INVALID") as refusal:
        await desk.upload("sales", *([content[:5], content[5:]] if content else []))
    assert says in refusal.error.message
    assert await desk.names() == [] and own_files(desk) == []


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"\xef\xbb\xbfa,b\n1,2\n", [["1", "2"]]),
        (b"a,b\r\n1,2\r\n", [["1", "2"]]),
        (b'a,b\n"x\ny",2\n3\n', [["x\ny", "2"], ["3", None]]),
        (b"a,b\n#1,it's\n'2,\"\"\n", [["#1", "it's"], ["'2", None]]),
        (b"a,b", []),
        ("a,b\n€,ü\n".encode(), [["€", "ü"]]),
    ],
)
async def test_a_file_reads_as_it_was_written(desk: Desk, content: bytes, rows: list[object]):
    await desk.upload("sales", *(content[n : n + 1] for n in range(len(content))))
    result = await desk.result("sql_query", sql="SELECT * FROM sales")
    assert (result["columns"], result["rows"]) == (["a", "b"], rows)


async def test_columns_without_names_and_with_the_same_name_get_names(desk: Desk):
    await desk.upload("odd", b'a,A,,"x ""y""\' z"\n1,2,3,4\n')
    assert (await desk.result("sql_query", sql="SELECT * FROM odd"))["columns"] == ["a", "A_1", "column2", 'x "y"\' z']


@pytest.mark.parametrize("name", ["", "none", "a b", 'a"b', "../x", "x" * 129])
async def test_a_name_that_is_no_id_is_refused(desk: Desk, name: str):
    with refused(Code.INVALID_ARGUMENT, "INVALID_ID"):
        await desk.upload(name, CSV)


async def test_names_that_sql_cannot_tell_apart_are_refused(desk: Desk):
    await desk.upload("Sales.2026", CSV)
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await desk.upload("sales.2026", CSV)
    assert (await desk.result("sql_query", sql='SELECT count(*) FROM "SALES.2026"'))["rows"] == [[4]]


async def test_what_is_no_upload_is_refused(desk: Desk):
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await desk.upload("sales", CSV, media_type="application/zip")
    header = pb.UploadCorpusRequest(header=pb.UploadHeader(name="sales", media_type="text/csv"))
    chunk = pb.UploadCorpusRequest(chunk=CSV)
    for messages in ([], [chunk], [header, header], [pb.UploadCorpusRequest()]):
        with refused(Code.INVALID_ARGUMENT, "MALFORMED_REQUEST"):
            await desk.corpora.UploadCorpus(iter(messages), metadata=desk.person.metadata)
    with refused(Code.RESOURCE_EXHAUSTED, "TOO_LARGE"):
        await desk.upload("sales", b"x" * (1024 * 1024 + 1))


async def test_an_upload_that_is_cancelled_leaves_nothing(desk: Desk):
    async def half() -> AsyncIterator[pb.UploadCorpusRequest]:
        yield pb.UploadCorpusRequest(header=pb.UploadHeader(name="sales", media_type="text/csv"))
        for _ in range(5):
            yield pb.UploadCorpusRequest(chunk=b"a" * MIB)
        await asyncio.Event().wait()

    async def under_way() -> bool:
        return bool(own_files(desk))

    async def gone() -> bool:
        return not await under_way()

    call = desk.corpora.UploadCorpus(half(), metadata=desk.person.metadata)
    await eventually(under_way)
    call.cancel()
    await eventually(gone)
    assert await desk.names() == [] and own_files(desk) == []


async def test_limits_are_named(desk: Desk, own_process):
    settings = {"CORPUS_MAX_BYTES": "1000", "CORPUS_USER_BYTES": "1500", "CORPUS_USER_COUNT": "2"}
    own = Desk(desk.system, desk.person, (await own_process(**settings)).peer)
    with refused(Code.RESOURCE_EXHAUSTED, "TOO_LARGE") as refusal:
        await own.upload("big", b"a\n", b"1" * 999)
    assert refusal.error.metadata == {"limit": "corpus_bytes", "value": "1000"}
    await own.upload("one", b"a\n" + b"1\n" * 450)
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await own.upload("two", b"a\n" + b"1\n" * 450)
    assert refusal.error.metadata == {"limit": "user_corpora_bytes", "value": "1500"}
    await own.upload("one", b"a\n" + b"2\n" * 450)
    await own.upload("two", b"a\n")
    with refused(Code.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED") as refusal:
        await own.upload("three", b"a\n")
    assert refusal.error.metadata == {"limit": "corpora", "value": "2"}


async def test_two_uploads_at_once_do_not_pass_the_limit_together(desk: Desk, own_process):
    own = Desk(desk.system, desk.person, (await own_process(CORPUS_USER_BYTES="1000")).peer)
    uploads = [own.upload(name, b"a\n" + b"1\n" * 400) for name in ("one", "two")]
    answers = await asyncio.gather(*uploads, return_exceptions=True)
    assert len([each for each in answers if isinstance(each, grpc.aio.AioRpcError)]) == 1
    assert len(await own.names()) == 1 and len(own_files(own)) == 1
