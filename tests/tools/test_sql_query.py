"""SQL over corpora: what comes back, and that nothing else is within a query's reach, be it files, memory or other users."""

from __future__ import annotations

import asyncio
import json
import time

import grpc
import pytest

from tests.support.expect import refused
from tests.support.system import REAL_TRACE
from tests.tools.conftest import CSV, Desk

Code = grpc.StatusCode


async def failure(desk: Desk, sql: str) -> tuple[str, str]:
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.result("sql_query", sql=sql)
    return refusal.error.metadata["tool_reason"], refusal.error.message


@pytest.mark.skipif(not REAL_TRACE.exists(), reason=f"the real trace is not at {REAL_TRACE}")
async def test_a_real_trace_is_counted(desk: Desk):
    await desk.upload("trace", REAL_TRACE.read_bytes())
    result = await desk.result("sql_query", sql="SELECT count(*) AS n, sum(ContextTokens::BIGINT) AS s FROM trace")
    assert result == {"columns": ["n", "s"], "rows": [[19366, 22361870]], "truncated": False, "next": None}
    figures = await desk.result("statistics", corpus="trace", column="GeneratedTokens")
    assert (figures["count"], figures["unreadable"], figures["nulls"]) == (19366, 0, 0)
    assert figures["min"] <= figures["p50"] <= figures["p95"] <= figures["max"]


async def test_statistics_count_what_cannot_be_read(desk: Desk):
    await desk.upload("sales", CSV)
    assert await desk.result("statistics", corpus="sales", column="amount") == {
        **{"count": 2, "nulls": 1, "unreadable": 1, "min": 1.0, "max": 2.0},
        **{"mean": 1.5, "p50": 1.0, "p95": 2.0},
    }
    for corpus, column, reason in (("sales", "age", "COLUMN_NOT_FOUND"), ("trade", "amount", "CORPUS_NOT_FOUND")):
        with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
            await desk.result("statistics", corpus=corpus, column=column)
        assert refusal.error.metadata["tool_reason"] == reason


async def test_values_become_json(desk: Desk):
    sql = """SELECT 1.5::DECIMAL(9,2), 2::DECIMAL(9,2), 170141183460469231731687303715884105727::HUGEINT, 'nan'::DOUBLE,
        DATE '2026-01-02', TIMESTAMP '2026-01-02 03:04:05.678', TIMESTAMPTZ '2026-01-02 03:04:05+00', [1, NULL],
        {'a': true}, 'ab'::BLOB, INTERVAL 90 SECOND"""
    assert (await desk.result("sql_query", sql=sql))["rows"] == [
        [
            *(1.5, 2, 2**127 - 1, None),
            *("2026-01-02", "2026-01-02T03:04:05.678000", "2026-01-02 03:04:05+00"),
            *([1, None], {"a": True}, "6162", 90.0),
        ]
    ]


async def test_rows_are_capped_and_says_so(desk: Desk):
    result = await desk.result("sql_query", sql="SELECT range FROM range(1000000000)")
    assert len(result["rows"]) == 10_000 and result["truncated"] and result["next"] == 10_000
    assert not (await desk.result("sql_query", sql="SELECT range FROM range(10000)"))["truncated"]


@pytest.mark.parametrize(
    ("sql", "rows", "asked"),
    [
        (
            "SELECT range FROM range(1001) ORDER BY range",
            1001,
            {"max_rows": 300},
        ),  # by number, beyond what is fetched at once
        ("SELECT range, repeat('ü', 2000) FROM range(1000) ORDER BY range", 1000, {}),  # by bytes: 4 MB
        ("SELECT range FROM range(10) ORDER BY range", 10, {"max_rows": 5}),
    ],
)
async def test_page_by_page_every_row_comes_once(desk: Desk, sql: str, rows: int, asked: dict[str, int]):
    seen: list[int] = []
    pages, offset = 0, 0
    while offset is not None:
        answer = await desk.execute("sql_query", f"page {pages}".replace(" ", "-"), sql=sql, offset=offset, **asked)
        assert len(answer.result_json.encode()) <= 1024 * 1024
        page = json.loads(answer.result_json)
        assert page["truncated"] == (page["next"] is not None)
        seen += [row[0] for row in page["rows"]]
        pages, offset = pages + 1, page["next"]
    assert seen == list(range(rows)) and pages > 1


async def test_beyond_the_last_row_there_is_nothing_and_one_row_may_be_too_large(desk: Desk):
    empty = await desk.result("sql_query", sql="SELECT 1 AS one", offset=5)
    assert empty == {"columns": ["one"], "rows": [], "truncated": False, "next": None}
    reason, message = await failure(desk, "SELECT repeat('x', 2000000)")
    assert reason == "TOO_LARGE" and "A row has more than 1048576 bytes" in message


async def test_a_missing_corpus_is_named_with_those_that_exist(desk: Desk, other: Desk):
    await desk.upload("sales", CSV)
    await other.upload("secrets", CSV)
    reason, message = await failure(desk, "SELECT * FROM secrets")
    assert (reason, message) == ("CORPUS_NOT_FOUND", "You have no corpus secrets; you have: sales.")
    assert (await desk.result("sql_query", sql="SHOW TABLES"))["rows"] == [["sales"]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "",
        " -- nothing",
        "CREATE TABLE x (a INT)",
        "COPY sales TO '/tmp/carrel-test'",
        "ATTACH '/tmp/carrel-test.db'",
        "SET memory_limit = '10GB'",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "CALL enable_logging()",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM glob('/**')",
        "SELECT * FROM enable_logging(storage='file', storage_path='/tmp/carrel-test')",
        "SELECT * FROM read_csv('https://example.com/a.csv')",
        "SELECT getenv('HOME')",
        "SELEC 1",
        "SELECT '\ud7ff' || \x00",
    ],
)
async def test_nothing_but_reading_corpora_is_possible(desk: Desk, sql: str):
    if sql:
        assert (await failure(desk, sql))[0] == "SQL_ERROR"
    else:
        with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
            await desk.result("sql_query", sql=sql)


async def test_another_users_file_is_out_of_reach_even_by_its_path(desk: Desk, other: Desk):
    await desk.upload("sales", CSV)
    corpus = await other.upload("secrets", CSV)
    (path,) = [path for path in desk.files() if corpus.corpus_id in path]
    own = next(each for each in desk.files() if corpus.corpus_id not in each)
    for each in (path, f"{own.rsplit('/', 3)[0]}/*/*/*.csv", f"{own}/../../../{path.split('corpora/')[1]}"):
        reason, message = await failure(desk, f"SELECT * FROM read_csv('{each}')")
        assert reason == "SQL_ERROR" and "Permission" in message


@pytest.mark.parametrize(
    "sql", ["SELECT repeat('x', 3000000000)", "SELECT range(1000000000)", "SELECT list(range) FROM range(100000000)"]
)
async def test_a_query_that_eats_memory_ends_alone(desk: Desk, other: Desk, sql: str):
    (reason, _), _ = await asyncio.gather(failure(desk, sql), other.result("sql_query", sql="SELECT 1"))
    assert reason == "SQL_MEMORY"


async def test_a_query_ends_when_its_caller_leaves(desk: Desk):
    endless = "SELECT count(*) FROM range(100000000000) WHERE range * range % 7 = 1"
    calls = [asyncio.create_task(desk.result("sql_query", sql=endless)) for _ in range(2)]
    done, _ = await asyncio.wait(calls, timeout=0.5)
    assert not done
    for call in calls:
        call.cancel()
    # Both turns that a user has are free again.
    begin = time.monotonic()
    await asyncio.gather(*(desk.result("sql_query", sql="SELECT 1") for _ in range(4)))
    assert time.monotonic() - begin < 5
