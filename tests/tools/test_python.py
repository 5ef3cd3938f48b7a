"""The Python tool through real calls: what goes in and comes out, what is refused, and that its end is its own."""

from __future__ import annotations

import asyncio
import base64

import grpc
import pytest

from tests.support.expect import refused
from tests.tools.conftest import CSV, Desk

Code = grpc.StatusCode


async def failure(desk: Desk, code: str, **arguments: object) -> str:
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await desk.result("python", code=code, **arguments)
    return refusal.error.metadata["tool_reason"]


async def test_the_last_expression_and_what_was_printed_come_back(desk: Desk):
    code = "import statistics\nprint('seen', arguments['n'])\nstatistics.mean([1, 2, arguments['n']])"
    result = await desk.result("python", code=code, arguments={"n": 6})
    assert (result["value"], result["stdout"], result["error"], result["files"]) == (3, "seen 6\n", None, [])


async def test_own_corpora_are_files_and_cannot_be_written(desk: Desk, other: Desk):
    await desk.upload("sales", CSV)
    code = "import csv\nsum(1 for _ in csv.DictReader(open('sales.csv')))"
    assert (await desk.result("python", code=code, corpora=["sales"]))["value"] == 4
    sql = "import duckdb\nduckdb.sql(\"SELECT count(*) FROM 'sales.csv'\").fetchall()[0][0]"
    assert (await desk.result("python", code=sql, corpora=["sales"]))["value"] == 4
    changed = await desk.result("python", code="open('sales.csv', 'w').write('gone')", corpora=["sales"])
    assert changed["error"]["type"] in ("PermissionError", "OSError")
    assert (await desk.result("sql_query", sql="SELECT count(*) FROM sales"))["rows"] == [[4]]
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await other.result("python", code=code, corpora=["sales"])
    assert refusal.error.metadata == {"tool_reason": "CORPUS_NOT_FOUND"}


async def test_files_come_back_and_can_be_kept_as_corpora(desk: Desk):
    code = "open('a.csv', 'w').write('x\\n1\\n')\nopen('b.bin', 'wb').write(b'\\xff')\nNone"
    keep = {"a.csv": {"name": "made", "media_type": "text/csv"}}
    for _ in range(2):  # again, as after a crash: the same corpus
        result = await desk.result("python", code=code, keep=keep)
    assert [(file["name"], base64.b64decode(file["content_base64"])) for file in result["files"]] == [
        ("a.csv", b"x\n1\n"),
        ("b.bin", b"\xff"),
    ]
    assert (await desk.result("sql_query", sql="SELECT x FROM made"))["rows"] == [["1"]]
    assert await failure(desk, "1", keep={"c": {"name": "made", "media_type": "text/csv"}}) == "FILE_MISSING"
    assert await failure(desk, code, keep={"b.bin": {"name": "made", "media_type": "text/csv"}}) == "CORPUS_INVALID"


async def test_a_link_to_another_file_is_not_followed(desk: Desk):
    result = await desk.result("python", code="import os\nos.symlink('/etc/passwd', 'x')\nos.listdir('.')")
    assert result["files"] == [] and result["value"] == ["x"]


@pytest.mark.parametrize(
    ("code", "kind", "line"),
    [
        ("1\n1 / 0", "ZeroDivisionError", 2),
        ("def f(:", "SyntaxError", 1),
        ("import sys\nsys.exit('no')", "SystemExit", 2),
        ("import os\nos.fork()", "PermissionError", 2),
        ("import socket\nsocket.socket()", "PermissionError", 2),
        ("open('/proc/self/maps')", "PermissionError", 1),
        ("import subprocess\nsubprocess.run(['id'])", "PermissionError", 2),
        ("bytearray(2**30)", "MemoryError", 1),
        ("def f(): f()\nf()", "RecursionError", 1),
    ],
)
async def test_what_the_code_raises_is_told_with_its_line(desk: Desk, code: str, kind: str, line: int):
    error = (await desk.result("python", code=code))["error"]
    assert (error["type"], error["line"]) == (kind, line)


async def test_output_is_cut_and_says_so(desk: Desk):
    result = await desk.result("python", code="for _ in range(10000): print('x' * 100)")
    assert len(result["stdout"]) == 64 * 1024 and result["truncated"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import ctypes; ctypes.string_at(0)", "SANDBOX_CRASHED"),
        ("import os; os._exit(0)", "SANDBOX_CRASHED"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SANDBOX_CRASHED"),
        ("n = 0\nwhile True:\n    open(f'{n}', 'wb').write(b'x' * 2**20)\n    n += 1", "SANDBOX_DISK"),
    ],
)
async def test_code_that_ends_its_interpreter_ends_alone(desk: Desk, other: Desk, code: str, reason: str):
    ended, fine = await asyncio.gather(failure(desk, code), other.result("python", code="1 + 1"))
    assert ended == reason and fine["value"] == 2


async def test_code_that_never_ends_is_ended(desk: Desk, own_process):
    own = Desk(desk.system, desk.person, (await own_process(TOOL_DEADLINE_SECONDS="1")).peer)
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await own.result("python", code="while True: pass")
    assert refusal.error.metadata["tool_reason"] in ("SANDBOX_TIME", "TOOL_TIMEOUT")


async def test_nothing_stays_for_the_next_call(desk: Desk, other: Desk):
    await desk.result("python", code="import builtins, os\nbuiltins.planted = 1\nopen('left', 'w').write('x')")
    code = "import builtins, os\n[hasattr(builtins, 'planted'), os.listdir('.'), dict(os.environ).keys() - {'HOME', 'TMPDIR', 'LANG'}]"
    assert (await other.result("python", code=code))["value"] == "[False, [], set()]"
