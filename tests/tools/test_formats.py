"""Corpora of each format through real calls: how they read as tables, and what is refused, with its place."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import duckdb
import grpc
import pytest

from tests.support.expect import refused
from tests.tools.conftest import Desk

Code = grpc.StatusCode
PARQUET = "application/vnd.apache.parquet"
JSON_LINES = "application/x-ndjson"
OBJECTS = b'{"name": "ann", "amount": 1.5, "tags": ["a", "b"]}\n{"name": "bob", "amount": null}\n'


def parquet(folder: Path, select: str) -> bytes:
    path = folder / "made.parquet"
    duckdb.sql(select).write_parquet(str(path))
    return path.read_bytes()


async def test_parquet_keeps_its_types(desk: Desk, tmp_path: Path):
    content = parquet(tmp_path, "SELECT range AS n, 'x' || range AS t, DATE '2026-01-02' AS d FROM range(1000)")
    corpus = await desk.upload("trace", content, media_type=PARQUET)
    assert [*corpus.columns] == ["n", "t", "d"] and [*corpus.column_types] == ["BIGINT", "VARCHAR", "DATE"]
    result = await desk.result("sql_query", sql="SELECT sum(n), max(t), min(d) FROM trace")
    assert result["rows"] == [[499500, "x999", "2026-01-02"]]
    assert (await desk.result("statistics", corpus="trace", column="n"))["count"] == 1000


async def test_json_lines_become_columns_with_types(desk: Desk):
    corpus = await desk.upload("log", OBJECTS, media_type=JSON_LINES)
    assert [*corpus.column_types] == ["VARCHAR", "DOUBLE", "VARCHAR[]"]
    result = await desk.result("sql_query", sql="SELECT name, amount, len(tags) FROM log ORDER BY name")
    assert result["rows"] == [["ann", 1.5, 2], ["bob", None, None]]


@pytest.mark.parametrize("media_type", ["text/plain", "text/markdown"])
async def test_a_text_is_a_table_of_its_lines(desk: Desk, media_type: str):
    await desk.upload("notes", "# Grüße\r\n\r\nlast, without end".encode(), media_type=media_type)
    result = await desk.result("sql_query", sql="SELECT * FROM notes")
    assert result == {
        "columns": ["line", "text"],
        "rows": [[1, "# Grüße"], [2, ""], [3, "last, without end"]],
        "truncated": False,
        "next": None,
    }


async def test_corpora_of_all_formats_can_be_joined(desk: Desk, tmp_path: Path):
    await desk.upload("people", b"name,city\nann,Ulm\n")
    await desk.upload("log", OBJECTS, media_type=JSON_LINES)
    await desk.upload("ages", parquet(tmp_path, "SELECT 'ann' AS name, 40 AS age"), media_type=PARQUET)
    sql = "SELECT city, amount, age FROM people JOIN log USING (name) JOIN ages USING (name)"
    assert (await desk.result("sql_query", sql=sql))["rows"] == [["Ulm", 1.5, 40]]
    shown = (await desk.result("sql_query", sql="SHOW TABLES"))["rows"]
    assert shown == [["ages"], ["log"], ["people"]]
    described = (await desk.result("sql_query", sql="SELECT column_name FROM information_schema.columns"))["rows"]
    assert sorted(name for (name,) in described) == ["age", "amount", "city", "name", "name", "name", "tags"]
    built = "SELECT count(*) FROM query_table('peo' || 'ple')"
    assert (await desk.result("sql_query", sql=built))["rows"] == [[1]]


def zip_bomb() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("huge.csv", b"0" * 20_000_000)
    return target.getvalue()


@pytest.mark.parametrize(
    ("media_type", "content", "says"),
    [
        (PARQUET, b"PAR1 and nothing else", "Parquet"),
        (PARQUET, b"a,b\n1,2\n", "Parquet"),
        (PARQUET, zip_bomb(), "Parquet"),
        ("text/csv", zip_bomb(), "Byte"),
        ("text/csv", gzip.compress(b"a,b\n1,2\n"), "Byte"),
        (JSON_LINES, b'{"a": 1}\n{"a": \n', "Line 2"),
        (JSON_LINES, b'{"a": 1}\n[1]\n', "Line 2"),
        (JSON_LINES, b"", "empty"),
        (JSON_LINES, b'{"a": ' + b"[" * 100_000 + b"\n", "Line 1"),
        ("text/plain", b"good\n\xff", "Byte 5"),
        ("text/markdown", b"# a\x00", "Byte 3"),
    ],
)
async def test_a_file_that_is_not_what_it_claims_is_refused(desk: Desk, media_type: str, content: bytes, says: str):
    with refused(Code.INVALID_ARGUMENT, "CORPUS_INVALID") as refusal:
        await desk.upload("bad", *([content] if content else []), media_type=media_type)
    assert says in refusal.error.message, refusal.error.message
    assert await desk.names() == []


async def test_a_truncated_parquet_file_is_refused(desk: Desk, tmp_path: Path):
    content = parquet(tmp_path, "SELECT range AS n FROM range(100000)")
    for size in (len(content) - 1, len(content) // 2, 10):
        with refused(Code.INVALID_ARGUMENT, "CORPUS_INVALID"):
            await desk.upload("bad", content[:size], media_type=PARQUET)
    # A hole in the middle: the end, which lists the columns, is whole.
    holed = content[: len(content) // 3] + bytes(2000) + content[len(content) // 3 + 2000 :]
    with refused(Code.INVALID_ARGUMENT, "CORPUS_INVALID") as refusal:
        await desk.upload("bad", holed, media_type=PARQUET)
    assert "/proc" not in refusal.error.message


async def test_a_parquet_file_that_swells_ends_alone(desk: Desk, other: Desk, tmp_path: Path):
    # 400 MB of one letter in some KB.
    content = parquet(tmp_path, "SELECT repeat('x', 4000000) AS t FROM range(100)")
    assert len(content) < 20_000_000
    await desk.upload("swelling", content, media_type=PARQUET)
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.result("sql_query", sql="SELECT string_agg(t, '') FROM swelling")
    assert refusal.error.metadata["tool_reason"] in ("SQL_MEMORY", "TOO_LARGE")
    assert (await other.result("sql_query", sql="SELECT 1"))["rows"] == [[1]]


@pytest.mark.parametrize("media_type", [PARQUET, JSON_LINES, "text/plain"])
async def test_no_format_opens_a_way_to_other_files(desk: Desk, tmp_path: Path, media_type: str):
    content = {
        PARQUET: parquet(tmp_path, "SELECT 1 AS n"),
        JSON_LINES: json.dumps({"n": 1}).encode(),
        "text/plain": b"n",
    }[media_type]
    await desk.upload("own", content, media_type=media_type)
    for sql in (
        "SELECT * FROM own, read_text('/etc/passwd')",
        "SELECT * FROM own, read_parquet('/proc/self/environ')",
        "SELECT * FROM own, read_json('/proc/self/environ')",
        "SELECT * FROM own, read_blob('/proc/self/fd/*')",
        "SELECT * FROM own, glob('/*')",
    ):
        with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
            await desk.result("sql_query", sql=sql)
        assert refusal.error.metadata["tool_reason"] == "SQL_ERROR"
