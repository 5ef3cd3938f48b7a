"""Tools that are functions: what is derived from them, what they may not be, and that they run as any tool does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pytest
from pydantic import BaseModel, Field

import carrel
from carrel.tool import Desk, Tool, ToolFailure
from carrel.tool_kit import ArgumentsRefused, LocalCorpus, LocalDesk, run_tool
from carrel_tools.shipped.corpus_admin import CorpusAdmin
from carrel_tools.shipped.corpus_search import CorpusSearch
from carrel_tools.shipped.sql_query import SqlQuery
from carrel_tools.shipped.statistics import Statistics
from carrel_tools.tool_sources import added_tools, sandboxed_modules
from carrel_tools.tool_system import load_classes
from tests.support.expect import refused
from tests.support.system import ROOT
from tests.tools.conftest import CSV, Code
from tests.tools.conftest import Desk as Calls

CORPORA = {"sales": CSV.decode()}


class Range(BaseModel):
    begin: date
    end: date


@carrel.tool(idempotent=True)
def days(range: Range, step: Annotated[int, Field(ge=1)] = 1) -> dict[str, int | date]:
    """Counts the days of a range.

    The last one is not counted.
    """
    return {"days": (range.end - range.begin).days // step, "end": range.end}


@carrel.tool(name="rows", scopes=["corpora.read"], reads_corpora=True)
async def count_rows(corpus: str, desk: Desk) -> int:
    """Counts the rows of a corpus."""
    found = await desk.query(f'SELECT count(*) FROM "{corpus}"', 1)
    return int(found["rows"][0][0])


def test_the_schema_comes_from_the_type_hints():
    schema = days.arguments_schema
    assert (days.name, days.idempotent, days.scopes) == ("days", True, frozenset())
    assert days.description == "Counts the days of a range.\n\nThe last one is not counted."
    assert schema["required"] == ["range"] and not schema["additionalProperties"]
    assert schema["properties"]["step"]["minimum"] == 1 and "$defs" in schema
    assert "desk" not in count_rows.arguments_schema["properties"]
    assert (count_rows.name, count_rows.scopes) == ("rows", frozenset({"corpora.read"}))


async def test_arguments_come_as_their_types_and_results_leave_as_json():
    result = await run_tool(days, range={"begin": "2026-01-01", "end": "2026-01-31"}, step=2)
    assert result == {"days": 15, "end": "2026-01-31"}
    assert await run_tool(count_rows, LocalDesk(CORPORA), corpus="sales") == 4
    for arguments in ({}, {"range": 1}, {"range": {"begin": "2026-01-01", "end": "2026-01-31"}, "more": 1}):
        with pytest.raises(ArgumentsRefused):
            await run_tool(days, **arguments)


def test_a_function_that_does_not_say_what_it_does_is_refused():
    def silent(text: str) -> str:
        return text

    def untyped(text):  # type: ignore[no-untyped-def]
        """Says something."""

    def many(*texts: str) -> None:
        """Takes many."""

    async def waiting(text: str) -> str:
        """Waits in a sandbox."""
        return text

    for function in (silent, untyped, many):
        with pytest.raises(TypeError, match=function.__name__):
            carrel.tool(function)
    with pytest.raises(TypeError, match="plain function"):
        carrel.tool(sandbox_level=2)(waiting)


async def test_the_kit_refuses_what_a_tool_is_not_granted():
    @carrel.tool
    async def greedy(desk: Desk) -> None:
        """Takes what it did not ask for."""
        await desk.delete_corpus("sales")

    with pytest.raises(ToolFailure) as raised:
        await run_tool(greedy, LocalDesk(CORPORA))
    assert raised.value.reason == "NOT_GRANTED"


@pytest.mark.parametrize(
    ("media_type", "content", "columns", "rows"),
    [
        ("application/x-ndjson", b'{"a": 1, "b": "x"}\n{"a": 2, "b": "y"}\n', ["a", "b"], [[1, "x"], [2, "y"]]),
        ("text/markdown", b"# Ships\n\nThey leave.\n", ["line", "text"], [[1, "# Ships"], [2, ""], [3, "They leave."]]),
        ("application/vnd.apache.parquet", b"", ["a"], [["2026-01-02"]]),
    ],
)
async def test_the_kit_knows_every_format(
    tmp_path: Path, media_type: str, content: bytes, columns: list[str], rows: Any
):
    if not content:
        duckdb.sql(f"COPY (SELECT DATE '2026-01-02' AS a) TO '{tmp_path}/a.parquet'")
        content = (tmp_path / "a.parquet").read_bytes()
    desk = LocalDesk({"log": LocalCorpus(media_type, content), **CORPORA})
    page = await run_tool(SqlQuery, desk, sql="SELECT * FROM log", max_rows=1)
    assert (page["columns"], page["rows"], page["next"]) == (columns, rows[:1], 1 if len(rows) > 1 else None)
    assert (await run_tool(SqlQuery, desk, sql="SELECT * FROM log"))["rows"] == rows
    found = await run_tool(CorpusAdmin, desk, action="validate", name="log")
    assert (found["columns"], found["rows"]) == (columns, len(rows))
    last = str(rows[-1][-1])
    hits = await run_tool(CorpusSearch, desk, words=last, corpora=["log"])
    assert [hit["place"] for hit in hits["hits"]] == [len(rows)]


async def test_shipped_tools_run_in_the_kit():
    assert (await run_tool(Statistics, LocalDesk(CORPORA), corpus="sales", column="amount"))["count"] == 2


def test_tools_come_from_modules_and_are_found_once():
    names = [tool.name for tool in load_classes("tests.support.sdk_tools")]
    assert {"shout", "escape", "echo"} <= set(names)
    tools = added_tools("tests.support.sdk_tools, tests.support.sdk_tools")
    assert [tool.name for tool in tools] == ["shout", "escape", "die"] and all(issubclass(tool, Tool) for tool in tools)
    assert sandboxed_modules(tools) == ["tests.support.sdk_tools"]


async def test_function_tools_run_in_tool_dispatch_and_in_its_sandbox(desk: Calls, own_process):
    own = Calls(desk.system, desk.person, (await own_process(TOOL_MODULES="tests.support.sdk_tools")).peer)
    assert await own.result("shout", text="hear") == "HEAR!"
    escaped = await own.result("escape", path=str(ROOT / "pyproject.toml"))
    assert escaped["environment"] == ["HOME", "LANG", "TMPDIR"] and escaped["read"].startswith("PermissionError")
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await own.result("escape", path="")
    assert refusal.error.metadata["tool_reason"] == "PATH_EMPTY"
    with refused(Code.FAILED_PRECONDITION, "TOOL_FAILED") as refusal:
        await own.result("die")
    assert refusal.error.metadata["tool_reason"] == "SANDBOX_CRASHED"
    with refused(Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"):
        await own.result("shout", text=1)


async def test_a_new_project_passes_its_own_test_and_is_found_when_installed(tmp_path: Path):
    made = [sys.executable, "-m", "carrel_cli", "new", "tool", "word_count", "--folder", str(tmp_path)]
    assert (await _run(made))[0] == 0
    assert (await _run(made))[0] == 1, "what is there is not overwritten"
    project = tmp_path / "carrel-tool-word-count"
    code, output = await _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project)], project)
    assert code == 0 and "3 passed" in output, output
    _install(project, tmp_path / "site")
    look = "from carrel_tools.tool_sources import added_tools; print([tool.name for tool in added_tools('')])"
    code, output = await _run([sys.executable, "-c", look], tmp_path / "site", project)
    assert "word_count" in output, output


@pytest.mark.parametrize("name", ["", "Word", "a-b", "1a", "../x", "a" * 64])
async def test_a_name_that_is_none_for_a_tool_is_refused(tmp_path: Path, name: str):
    code, output = await _run([sys.executable, "-m", "carrel_cli", "new", "tool", name, "--folder", str(tmp_path)])
    assert code != 0 and not os.listdir(tmp_path), output


def _install(project: Path, site: Path) -> None:
    """What `pip install` writes so that entry points are found, without an index."""
    import tomllib

    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / "carrel_tool_word_count-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    lines = [f"{name} = {target}" for name, target in told["entry-points"]["carrel.tools"].items()]
    (info / "entry_points.txt").write_text("[carrel.tools]\n" + "\n".join(lines) + "\n")


async def _run(command: list[str], *path: Path) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr
