"""Search and administration of corpora as tools."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import pytest

from tests.support.expect import refused
from tests.tools.conftest import CSV, Desk

Code = grpc.StatusCode
ADMIN = ("tools.use", "corpora.admin", "corpora.write", "corpora.read")
NOTES = b"# Trains\n\nThe night train to Vienna leaves late.\n\n# Ships\n\nShips leave in the morning, trains do not.\n"


async def hits(desk: Desk, words: str, **arguments: object) -> list[tuple[str, int]]:
    found = await desk.result("corpus_search", words=words, **arguments)
    return [(hit["corpus"], hit["place"]) for hit in found["hits"]]


async def test_search_ranks_passages_and_rows(desk: Desk):
    await desk.upload("notes", NOTES, media_type="text/markdown")
    await desk.upload("people", b"name,likes\nann,night trains\nbob,ships\n")
    assert await hits(desk, "night train") == [("people", 1), ("notes", 3)]
    assert await hits(desk, "Vienna") == [("notes", 3)]
    assert await hits(desk, "ships", corpora=["people"]) == [("people", 2)]
    assert await hits(desk, "ships", max_hits=1) != [] and await hits(desk, "zeppelin") == []
    # No passage has both: those with one.
    assert set(await hits(desk, "bob vienna")) == {("people", 2), ("notes", 3)}
    (first, *_) = (await desk.result("corpus_search", words="vienna"))["hits"]
    assert "**Vienna**" in first["snippet"] and first["score"] > 0


async def test_hit_by_hit_each_comes_once(desk: Desk):
    await desk.upload("people", b"name,likes\nann,night trains\nbob,trains\ncleo,trains at night\ndan,ships\n")
    seen, offset = [], 0
    while offset is not None:
        page = await desk.result("corpus_search", words="trains", max_hits=2, offset=offset)
        assert page["truncated"] == (page["next"] is not None)
        seen += [hit["place"] for hit in page["hits"]]
        offset = page["next"]
    assert sorted(seen) == [1, 2, 3]
    # Which words are looked for does not depend on the page: there is no row with some of them.
    assert (await desk.result("corpus_search", words="trains night", offset=2))["hits"] == []


@pytest.mark.parametrize("words", ['"', "* OR corpus:x", "NEAR(a b)", "a AND", "--", "ünïcode"])
async def test_words_are_words_and_no_query_language(desk: Desk, words: str):
    await desk.upload("notes", NOTES, media_type="text/plain")
    if any(letter.isalnum() for letter in words):
        await desk.result("corpus_search", words=words)
        return
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.result("corpus_search", words=words)
    assert refusal.error.metadata["tool_reason"] == "QUERY_INVALID"


async def test_search_finds_nothing_of_others(desk: Desk, other: Desk):
    await other.upload("notes", NOTES, media_type="text/plain")
    assert await hits(desk, "Vienna") == []
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.result("corpus_search", words="Vienna", corpora=["notes"])
    foreign = refusal.error
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.result("corpus_search", words="Vienna", corpora=["never"])
    assert foreign.message.replace("notes", "X") == refusal.error.message.replace("never", "X")


async def admin(desk: Desk, step: str, **arguments: object) -> Any:
    import json

    answer = await desk.execute("corpus_admin", step, scopes=ADMIN, **arguments)
    return json.loads(answer.result_json)


async def test_an_administrator_creates_exports_validates_and_imports(desk: Desk):
    made = await admin(desk, "1", action="create", name="sales", media_type="text/csv", text=CSV.decode())
    assert made["name"] == "sales" and made["size_bytes"] == len(CSV)
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await admin(desk, "2", action="create", name="sales", media_type="text/csv", text="x\n")
    assert refusal.error.metadata["tool_reason"] == "CORPUS_EXISTS"
    assert (await admin(desk, "3", action="export", name="sales"))["text"] == CSV.decode()
    found = await admin(desk, "4", action="validate", name="sales")
    assert (found["columns"], found["rows"]) == (["name", "amount"], 4)
    encoded = base64.b64encode(b"x\n1\n").decode()
    await admin(desk, "5", action="import", name="sales", media_type="text/csv", content_base64=encoded)
    assert (await admin(desk, "6", action="list"))["corpora"] == [{"name": "sales", "columns": ["x"]}]


async def test_what_destroys_needs_consent(desk: Desk):
    await desk.upload("sales", CSV)
    for step, arguments in enumerate(({"action": "delete"}, {"action": "update", "new_name": "sold"})):
        with refused(Code.FAILED_PRECONDITION, "APPROVAL_REQUIRED"):
            await admin(desk, f"d{step}", name="sales", **arguments)
    assert await desk.names() == ["sales"]


async def test_without_the_scope_there_is_no_administration(desk: Desk):
    with refused(Code.NOT_FOUND, "TOOL_NOT_FOUND"):
        await desk.execute("corpus_admin", action="list")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"action": "create", "name": "x", "media_type": "text/csv"}, "CONTENT_MISSING"),
        ({"action": "create", "name": "x", "media_type": "text/csv", "content_base64": "?"}, "CONTENT_INVALID"),
        ({"action": "create", "name": "x", "media_type": "text/csv", "text": ""}, "CORPUS_INVALID"),
        ({"action": "create", "name": "none", "media_type": "text/csv", "text": "a\n"}, "INVALID_ID"),
        ({"action": "export", "name": "never"}, "CORPUS_NOT_FOUND"),
        ({"action": "validate", "name": "never"}, "CORPUS_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_done_says_why(desk: Desk, arguments: dict[str, Any], reason: str):
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await admin(desk, "1", **arguments)
    assert refusal.error.metadata["tool_reason"] == reason
