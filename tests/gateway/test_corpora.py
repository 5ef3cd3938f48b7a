"""Files at both faces: streamed through, stored once, and nobody else's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from carrel import Client
from carrel.errors import CarrelClientError, InvalidArgument, NotFound
from carrel_chassis.stack.ports import free_ports
from tests.gateway.edge import http_client, replica
from tests.support.expect import eventually
from tests.support.system import Person, System

CSV = b"city,people\n" + b"".join(b"town-%d,%d\n" % (number, number) for number in range(150_000))
TYPE = {"content-type": "text/csv; charset=utf-8"}


async def test_a_file_goes_in_by_either_face_and_is_the_same(system: System, ada: Person, tmp_path: Path) -> None:
    async def body() -> AsyncIterator[bytes]:
        for begin in range(0, len(CSV), 70_000):
            yield CSV[begin : begin + 70_000]

    path = tmp_path / "towns.csv"
    path.write_bytes(CSV)
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        answer = await http.put("/v1/corpora/towns", content=body(), headers=TYPE)
        assert answer.status_code == 200, answer.text
        stored = answer.json()
        assert (stored["size_bytes"], stored["sha256"]) == (len(CSV), hashlib.sha256(CSV).hexdigest())
        again = await client.upload_corpus("towns", path)
        assert (again.corpus_id, again.sha256) == (stored["corpus_id"], stored["sha256"])
        assert [corpus.name async for corpus in client.list_corpora()] == ["towns"]
        assert (await http.delete("/v1/corpora/towns")).status_code == 204
        assert (await http.get("/v1/corpora")).json()["corpora"] == []


async def test_a_stranger_neither_sees_nor_deletes_nor_replaces_it(system: System, ada: Person, eve: Person) -> None:
    async with Client(system.addresses["gateway"], ada.token) as ours, http_client(system, eve.token) as http:
        mine = await ours.upload_corpus("towns", b"city\nhere\n")
        async with Client(system.addresses["gateway"], eve.token) as theirs:
            assert not [corpus async for corpus in theirs.list_corpora()]
            with pytest.raises(NotFound):
                await theirs.delete_corpus("towns")
            await theirs.upload_corpus("towns", b"city\nthere\n")
        answer = await http.delete("/v1/corpora/towns")
        assert answer.status_code == 204
        answer = await http.delete("/v1/corpora/towns")
        assert (answer.status_code, answer.json()["reason"]) == (404, "CORPUS_NOT_FOUND")
        assert [corpus.sha256 async for corpus in ours.list_corpora()] == [mine.sha256]


async def test_a_bad_upload_is_refused_alike(system: System, ada: Person) -> None:
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        for name, content in (("none", b"a\n1\n"), ("a b", b"a\n1\n")):
            answer = await http.put(f"/v1/corpora/{name}", content=content, headers=TYPE)
            assert answer.status_code == 400
            with pytest.raises(InvalidArgument) as refusal:
                await client.upload_corpus(name, content)
            assert refusal.value.reason == answer.json()["reason"]
        answer = await http.put("/v1/corpora/pdf", content=b"%PDF", headers={"content-type": "application/pdf"})
        assert answer.status_code == 400
        with pytest.raises(CarrelClientError):
            await client.upload_corpus("empty", b"")
        assert not [corpus async for corpus in client.list_corpora()]


async def test_a_refusal_in_the_middle_of_an_upload_reaches_the_sender_each_time(system: System, ada: Person) -> None:
    """grpc.aio's own write replaces it by INTERNAL (grpc/grpc#36066): the sender would not learn what was wrong."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        for _ in range(25):
            with pytest.raises(InvalidArgument) as refusal:
                await client.upload_corpus("none", b"x" * 1_000_000)
            assert refusal.value.reason == "INVALID_ID"
            answer = await http.put("/v1/corpora/none", content=body(), headers=TYPE)
            assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_ID")


async def test_a_file_that_is_not_there_fails_before_the_call(system: System, ada: Person, tmp_path: Path) -> None:
    async with Client(system.addresses["gateway"], ada.token) as client:
        with pytest.raises(FileNotFoundError):
            await client.upload_corpus("towns", tmp_path / "missing.csv")


async def test_what_was_stored_comes_out_by_either_face(
    system: System, ada: Person, eve: Person, tmp_path: Path
) -> None:
    async with http_client(system, ada.token) as http, Client(system.addresses["gateway"], ada.token) as client:
        stored = await client.upload_corpus("towns", CSV)
        assert (await client.get_corpus("towns")).sha256 == stored.sha256
        assert await client.read_corpus("towns") == CSV
        assert (await client.download_corpus("towns", tmp_path / "out.csv")).corpus_id == stored.corpus_id
        assert (tmp_path / "out.csv").read_bytes() == CSV and not (tmp_path / "out.csv.partial").exists()
        answer = await http.get("/v1/corpora/towns/content")
        assert (answer.content, answer.headers["etag"]) == (CSV, f'"{stored.sha256}"')
        rest = await http.get("/v1/corpora/towns/content", params={"offset": 1000, "corpus_id": stored.corpus_id})
        assert rest.content == CSV[1000:]
        head = await http.head("/v1/corpora/towns/content")
        assert (head.headers["content-length"], head.content) == (str(len(CSV)), b"")
        async with Client(system.addresses["gateway"], eve.token) as theirs:
            with pytest.raises(NotFound):
                await theirs.read_corpus("towns")
            with pytest.raises(NotFound):
                await theirs.get_corpus("towns")
            assert await theirs.erase_corpora() == 0
        assert await client.erase_corpora() == 1
        with pytest.raises(NotFound):
            await client.read_corpus("towns")
        assert (await http.get("/v1/corpora/towns/content")).status_code == 404


async def test_an_upload_that_broke_off_goes_on_where_it_was(system: System, ada: Person) -> None:
    content = CSV + b"".join(CSV.splitlines(True)[1:] * 3)  # more than is kept at a time
    digest, most = hashlib.sha256(content).hexdigest(), len(content) - 70_000
    async with http_client(system, ada.token) as http:

        async def kept() -> int:
            answer = await http.get("/v1/uploads/upload-1")
            return int(answer.json()["received_bytes"]) if answer.status_code == 200 else 0

        async def broken() -> AsyncIterator[bytes]:
            yield content[:most]
            await eventually(kept)  # what is still on its way when a line breaks is lost
            raise ConnectionError("the line breaks here")

        with pytest.raises(ConnectionError):
            await http.put("/v1/corpora/towns", params={"upload_id": "upload-1"}, content=broken(), headers=TYPE)
        received = await kept()
        assert 0 < received <= most

        async def stored() -> bool:  # once the service has seen that the line before is gone
            offset = await kept()
            asked = {"upload_id": "upload-1", "offset": offset, "sha256": digest}
            answer = await http.put("/v1/corpora/towns", params=asked, content=content[offset:], headers=TYPE)
            return answer.status_code == 200 and answer.json()["sha256"] == digest

        await eventually(stored)


async def test_the_client_goes_on_with_an_upload_when_its_gateway_goes_away(system: System, ada: Person) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    content = b"number,text\n" + b"".join(b"%d,%s\n" % (number, b"x" * 100) for number in range(250_000))
    database = await asyncpg.connect(system.database_url("postgres", driver="postgresql"))
    try:

        async def some_is_kept() -> int | None:
            query = "SELECT max(received_bytes) FROM tools.corpus_upload WHERE user_id = $1"
            kept: int | None = await database.fetchval(query, ada.user_id)
            return kept

        async with Client(address, ada.token) as client:
            async with replica(system, address, drain_seconds=0.01):
                uploading = asyncio.create_task(client.upload_corpus("large", content))
                await eventually(some_is_kept)
            assert not uploading.done()
            async with replica(system, address):
                stored = await uploading
        assert (stored.size_bytes, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    finally:
        await database.close()
