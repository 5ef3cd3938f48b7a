"""Starting and stopping the whole system from the command line, and the demo: nothing is left after."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.program import Ended, carrel, ended, next_line, processes_of, running
from tests.support.expect import eventually
from tests.support.system import REAL_TRACE


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder outside of pytest's own, which no other user may enter."""
    path = Path(tempfile.mkdtemp(prefix="carrel-cli-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_up_says_where_everything_is_and_leaves_nothing_behind(folder: Path) -> None:
    data_dir = folder / "data"
    with running("up", "--port-base", "0", "--json", data_dir=data_dir) as process:
        said = json.loads(await next_line(process))
        assert (said["pid"], said["data_dir"]) == (process.pid, str(data_dir))
        assert {"gateway", "gateway_http", "context", "execution", "tools", "events"} <= said["addresses"].keys()
        second = await carrel("up", "--port-base", "0", data_dir=data_dir)
        assert second.code == 1 and f"in use by process {process.pid}" in second.err
        await _kill_a_service_and_see_it_back(process.pid, data_dir)
        process.send_signal(signal.SIGINT)
        left = await ended(process)
    assert (left.code, left.out) == (0, "")
    assert "events died (SIGKILL); it is being started again." in left.err
    assert "For development" in left.err
    assert processes_of(folder) == []


async def _kill_a_service_and_see_it_back(launcher: int, data_dir: Path) -> None:
    """The process is taken from the launcher's own children: others run such services too."""
    (events,) = [child for child in psutil.Process(launcher).children() if "carrel_events" in child.cmdline()]
    events.kill()

    async def all_well() -> bool:
        return (await carrel("doctor", "--json", data_dir=data_dir)).code == 0

    await eventually(all_well, seconds=20)


async def test_down_stops_even_what_is_still_starting(folder: Path) -> None:
    with running("up", "--port-base", "0", "--json", data_dir=folder) as process:

        async def began() -> bool:
            return (folder / "stack.json").exists()

        await eventually(began)
        down = await carrel("down", "--json", data_dir=folder)
        left = await ended(process)
    assert down.document == {"stopped": True, "data_dir": str(folder)}
    assert (left.code, left.out) == (130, "")
    assert processes_of(folder) == []


@pytest.fixture
def temporary(folder: Path) -> dict[str, str]:
    """Where the demo makes its folder, so that what is left of it would be seen."""
    return {"TMPDIR": str(folder)}


async def test_the_demo_passes_all_its_checks_and_leaves_nothing(folder: Path, temporary: dict[str, str]) -> None:
    shown = await carrel("demo", **temporary)
    assert shown.code == 0, shown.out + shown.err
    for words in ("ada │", "ben │", "# Usage report: trace", "input_tokens", "It took: start", "Nothing is left"):
        assert words in shown.out + shown.err
    assert "FAILED" not in shown.out and "not checked" not in shown.out
    assert os.listdir(folder) == [] and processes_of(folder) == []


async def test_the_demo_for_programs_tells_what_it_found(folder: Path, temporary: dict[str, str]) -> None:
    if not REAL_TRACE.exists():
        pytest.skip("the recorded trace is not here")
    shown = await carrel("demo", "--data", str(REAL_TRACE), "--json", **temporary)
    demo = shown.documents[-1]["demo"]
    assert (shown.code, demo["passed"], demo["left"]) == (0, True, []), shown.out[-2000:]
    assert {check["passed"] for check in demo["checks"]} == {True}
    assert [user["facts"]["requests"] for user in demo["users"]] == [19_366, 500]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "No such file"),
        (b"", "lacks TIMESTAMP"),
        (b"a,b\n1,2\n", "lacks TIMESTAMP, ContextTokens, GeneratedTokens"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", "no rows"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        (b'TIMESTAMP,ContextTokens,GeneratedTokens\n"2023', "no CSV file"),
    ],
)
async def test_the_demo_refuses_a_bad_file_before_anything_starts(
    content: bytes | None, sentence: str, folder: Path, temporary: dict[str, str]
) -> None:
    path = folder / "trace.csv"
    if content is not None:
        path.write_bytes(content)
    refused: Ended = await carrel("demo", "--data", str(path), **temporary)
    assert (refused.code, refused.out) == (1, "")
    assert sentence in refused.err and len(refused.err.splitlines()) == 1
    assert os.listdir(folder) == ([] if content is None else ["trace.csv"])
